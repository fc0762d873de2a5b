"""2SFS against numpy: what each stage trains, by which rate and optimiser, and the logits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from test_methods import KEY, clip_method, pixels, unit

from pini_jax.clip.towers import stage
from pini_jax.core.errors import InputError
from pini_jax.methods import forward as stages
from pini_jax.methods.method import Variables
from pini_jax.methods.optim import Length, Optim
from pini_jax.methods.two_stage import TwoStage
from pini_jax.methods.zero_shot import ZeroShot

XS = ("scale", "bias")
STEPS, FIRST = 10, 6  # 0.6 of them
LENGTH = Length(epochs=np.float32(STEPS / 3), per_epoch=3)  # the last epoch ends early
SETTINGS = Optim(name="adamw", schedule="cosine", lr=0.1, weight_decay=0.05)


@pytest.fixture(scope="module")
def started(text):
    method, clip = clip_method(TwoStage)
    return method, clip, method.init(KEY, clip.theta, text)


def adamw(start, gradients):
    """PyTorch's AdamW with a cosine of as many steps as there are gradients."""
    x, m, v = np.float64(start), 0.0, 0.0
    for i, g in enumerate(np.float64(gradients)):
        rate = 0.1 * (1 + math.cos(math.pi * i / len(gradients))) / 2
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - rate * 0.05 * x
        x = x - rate * (m / (1 - 0.9 ** (i + 1))) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8)
    return x


def test_norms_are_trained_first_and_classes_then():
    """Each by an optimiser that begins with its stage, and the other stays as it is."""
    optimiser = TwoStage().optimiser(SETTINGS, LENGTH)
    start = {"norms": {"scale": np.array([1.0, -2.0], np.float32)}, "classes": np.ones((2, 3), np.float32)}
    gradients = np.random.default_rng(0).standard_normal((STEPS, 8), np.float32)
    phi = jax.tree.map(jnp.asarray, start)
    state = optimiser.init(phi)
    for i, g in enumerate(gradients):
        given = {"norms": {"scale": g[:2]}, "classes": g[2:].reshape(2, 3)}
        updates, state = jax.jit(optimiser.update)(given, state, phi)
        phi = optax.apply_updates(phi, updates)
        if i < FIRST:
            np.testing.assert_array_equal(phi["classes"], start["classes"])
    norms, classes = gradients[:FIRST, :2], gradients[FIRST:, 2:].reshape(-1, 2, 3)
    np.testing.assert_allclose(phi["norms"]["scale"], adamw(start["norms"]["scale"], norms), rtol=1e-4)
    np.testing.assert_allclose(phi["classes"], adamw(start["classes"], classes), rtol=1e-4)


def test_the_rate_begins_again_with_the_second_stage():
    rate = TwoStage().schedule(SETTINGS, LENGTH)
    found = [float(rate(step)) for step in range(STEPS)]
    cosines = [[0.1 * (1 + math.cos(math.pi * i / n)) / 2 for i in range(n)] for n in (FIRST, STEPS - FIRST)]
    np.testing.assert_allclose(found, sum(cosines, []), rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_stage_alone_has_all_steps(share):
    rate = TwoStage(share=share).schedule(SETTINGS, LENGTH)
    plain = [0.1 * (1 + math.cos(math.pi * i / STEPS)) / 2 for i in range(STEPS)]
    np.testing.assert_allclose([float(rate(step)) for step in range(STEPS)], plain, rtol=1e-5)


def test_the_norms_of_both_towers_are_all_that_changes(started):
    method, clip, start = started
    trained = flatten_dict(start.phi["norms"], sep="/")
    assert set(trained) == {
        *(
            f"{tower}/blocks/{norm}/{x}"
            for tower in ("text", "image")
            for norm in ("norm_1", "norm_2")
            for x in XS
        ),
        *(f"{place}/{x}" for place in ("text/norm_out", "image/norm_in", "image/norm_out") for x in XS),
    }
    moved = start._replace(phi=jax.tree.map(lambda x: x + 0.5, start.phi))
    old, new = (flatten_dict(theta, sep="/") for theta in (clip.theta, method.adapt(moved, clip.theta)))
    for path, x in old.items():
        np.testing.assert_array_equal(new[path], np.asarray(x) + (0.5 if path in trained else 0))


def test_the_classifier_is_added_to_the_texts(started, text):
    """And is none at the start: plain CLIP."""
    method, clip, start = started
    forward = jax.jit(lambda variables: stages.forward(method, variables, clip.theta, text, pixels())[0])
    images = stage(clip.image_tower, "__call__", clip.theta["image"], pixels())
    plain = stages.encode_text(ZeroShot(clip.text_tower), Variables({}), clip.theta, text)[0]
    scale = np.exp(float(clip.theta["logit_scale"]))
    chance = np.random.default_rng(1).standard_normal(plain.shape)
    for classes in (0 * chance, chance):
        moved = Variables(start.phi | {"classes": jnp.asarray(classes, jnp.float32)})
        expected = scale * unit(images) @ unit(unit(plain) + classes).T
        np.testing.assert_allclose(forward(moved)[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_resnet_is_refused(started, text):
    method, clip, _ = started
    with pytest.raises(InputError, match="2sfs .* the image tower is no transformer"):
        method.init(KEY, {**clip.theta, "image": {"stem": {}}}, text)
