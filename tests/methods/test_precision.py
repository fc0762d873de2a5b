"""Products outside the towers are of full float32 on every device: no program of a method says otherwise."""

import jax
import numpy as np
import pytest
import tiny_clips

from pini_jax.data.support import Support
from pini_jax.methods import registry
from pini_jax.methods.objective import Objective
from pini_jax.noise.sites import SITES

KEY = jax.random.key(0)
OTHERS = [name for name in registry.METHODS if name != "pini"]
NOISE = [(site, generator) for site in SITES for generator in SITES[site].generators]


def support(width):
    labels = np.arange(len(tiny_clips.NAMES)).repeat(2).astype(np.int32)
    return Support(np.random.default_rng(0).standard_normal((1, len(labels), width), np.float32), labels)


def products(function, *inputs):
    """The lines of a program that say how a product is computed."""
    return [line for line in jax.jit(function).lower(*inputs).as_text().splitlines() if "dot_general" in line]


def check_head(method, clip, text):
    """What is made before the first step, and what follows the towers; returns how many products there were."""
    selection = support(clip.embed_dim)

    def start():
        return method.init(KEY, clip.theta, text, selection)

    def head(variables, features):
        encoded = method.text_features(variables, text.features)
        images = method.image_features(variables, encoded, features)
        return method.logits(variables, clip.theta, images, encoded)

    alone = method.traits.sets_itself  # works on the host, uncompiled
    found = [] if alone else products(start)
    found += products(head, start() if alone else jax.jit(start)(), selection.features[None])
    assert not [line for line in found if "precision = [HIGHEST, HIGHEST]" not in line]
    return len(found)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_outside_the_towers_is_of_full_float32(name, clip, text):
    towers = registry.Towers(clip.text_tower, clip.image_tower)
    method = registry.build_method(name, {}, {}, Objective(), towers)
    assert check_head(method, clip, text)


@pytest.mark.parametrize(("site", "generator"), NOISE)
def test_so_is_what_makes_noise(site, generator, clip, text):
    noise = {site: {"generator": generator}}
    towers = registry.Towers(clip.text_tower, clip.image_tower)
    assert check_head(registry.build_method("pini", {}, noise, Objective(), towers), clip, text)
