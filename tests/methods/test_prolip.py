"""ProLIP and its linear adapter against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_methods import (
    IMAGES,
    KEY,
    LABELS,
    SUPPORT,
    TEXT,
    THETA,
    WIDTH,
    ZERO_SHOT,
    clip_method,
    logits,
    pixels,
    unit,
)

from pini_jax.clip.towers import stage
from pini_jax.core.errors import InputError
from pini_jax.data.support import Support
from pini_jax.methods import forward as stages
from pini_jax.methods.method import Text, Variables
from pini_jax.methods.prolip import LinearAdapter, ProLip

CHANGE = 0.3 * np.random.default_rng(1).standard_normal((WIDTH, WIDTH)).astype(np.float32)


def test_the_linear_adapter_by_hand():
    method = LinearAdapter(strength=0.5)
    start = method.init(KEY, THETA, TEXT, SUPPORT)
    np.testing.assert_allclose(logits(method, start), ZERO_SHOT, rtol=1e-4, atol=1e-4)
    moved = start._replace(phi={"change": jnp.asarray(CHANGE)})
    expected = 20 * unit(IMAGES @ (np.eye(WIDTH) + CHANGE)) @ unit(TEXT.features[0]).T
    np.testing.assert_allclose(logits(method, moved), expected, rtol=1e-4, atol=1e-4)
    assert float(method.penalty(start, THETA, TEXT, {}, np.ones(1))) == 0
    squares = np.square(np.float64(CHANGE)).sum()
    assert float(method.penalty(moved, THETA, TEXT, {}, np.ones(1))) == pytest.approx(0.5 / 4 * squares)


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_more_images_hold_less(shots):
    """By the images of a class, not by its views."""
    rows = np.flatnonzero(np.arange(len(LABELS)) % 4 < shots)
    found = LinearAdapter().init(KEY, THETA, TEXT, Support(SUPPORT.features[:, rows], LABELS[rows]))
    assert float(found.buffers["weight"]) == pytest.approx(1 / shots)


def before_projection(clip):
    """The class token through the last norm."""
    image = clip.theta["image"]
    tokens = stage(clip.image_tower, "encode", image, stage(clip.image_tower, "embed", image, pixels()))
    first = np.float64(tokens[:, 0])
    spread = first - first.mean(-1, keepdims=True)
    unscaled = spread / np.sqrt((spread**2).mean(-1, keepdims=True) + 1e-5)
    return unscaled * np.float64(image["norm_out"]["scale"]) + np.float64(image["norm_out"]["bias"])


def test_prolip_changes_the_projection_and_starts_as_zero_shot():
    method, clip = clip_method(ProLip)
    chance = np.random.default_rng(2)
    text = Text(jnp.asarray(chance.standard_normal((1, 3, clip.embed_dim)), jnp.float32))
    support = Support(np.zeros((1, 6, clip.embed_dim), np.float32), np.arange(6, dtype=np.int32) % 3)
    start = method.init(KEY, clip.theta, text, support)
    kernel = np.float64(clip.theta["image"]["projection"]["kernel"])
    assert start.phi["change"].shape == kernel.shape and not np.any(start.phi["change"])
    forward = jax.jit(lambda variables: stages.forward(method, variables, clip.theta, text, pixels())[0])
    scale = np.exp(float(clip.theta["logit_scale"]))
    change = 0.3 * chance.standard_normal(kernel.shape)
    for changed in (0 * change, change):
        moved = start._replace(phi={"change": jnp.asarray(changed, jnp.float32)})
        expected = scale * unit(before_projection(clip) @ (kernel + changed)) @ unit(text.features[0]).T
        np.testing.assert_allclose(forward(moved)[0, 0], expected, rtol=1e-3, atol=1e-4)
        penalty = method.penalty(moved, clip.theta, text, {}, np.ones(1))
        assert float(penalty) == pytest.approx(np.square(changed).sum() / 2, rel=1e-5)


def test_prolip_changes_the_projection_of_a_resnet():
    out = {"kernel": jnp.ones((4, WIDTH)), "bias": jnp.ones(WIDTH)}
    theta = {**THETA, "image": {"pool": {"out": out}}}
    start = ProLip().init(KEY, theta, TEXT, SUPPORT)
    changed = ProLip().adapt(Variables({"change": start.phi["change"] + 2}), theta)
    np.testing.assert_array_equal(changed["image"]["pool"]["out"]["kernel"], 3 * np.ones((4, WIDTH)))
    np.testing.assert_array_equal(changed["image"]["pool"]["out"]["bias"], out["bias"])
    with pytest.raises(InputError, match="has none: take linear_adapter"):
        ProLip().init(KEY, {**THETA, "image": {"norm_out": {"scale": jnp.ones(3)}}}, TEXT, SUPPORT)
