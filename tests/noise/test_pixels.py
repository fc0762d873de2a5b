"""What makes the noise of pixels, against numpy."""

import jax
import numpy as np
import pytest
import tiny_clips
from test_generators import KEY, attend, linear, make, normal, patches, start

from pini_jax.noise.generators import Inputs
from pini_jax.noise.pixels import BatchNorm, Conv, PatchAttention


@pytest.fixture(scope="module")
def patch_noise():
    return make(PatchAttention(reduction=2), patches())


def test_every_patch_makes_its_square(patch_noise):
    """By numpy, in the order in which the tower cuts an image; what no patch covers gets none."""
    (mean, scale, *_), variables = patch_noise
    site, phi = patches(), variables["params"]
    assert mean.shape == scale.shape == (1, 2, 2, 13, 13, 3)
    for k, b, i in np.ndindex(2, 2, 9):
        attended = attend(site.query[0, 0, b, i], site.text[k], phi, heads=1, scaled=False)
        square = np.s_[0, k, b, 4 * (i // 3) : 4 * (i // 3 + 1), 4 * (i % 3) : 4 * (i % 3 + 1)]
        np.testing.assert_allclose(mean[square].ravel(), linear(attended, phi["mean"]), atol=1e-5)
        np.testing.assert_allclose(scale[square].ravel(), np.abs(linear(attended, phi["scale"])), atol=1e-5)
    for x in (mean, scale):
        assert not np.abs(x[:, :, :, 12:]).max() and not np.abs(x[:, :, :, :, 12:]).max()


def test_patches_may_stand_in_a_grid(patch_noise):
    """As the feature map of a residual tower does."""
    (mean, *_), variables = patch_noise
    site = patches()
    grid = site._replace(query=site.query.reshape(1, 1, 2, 3, 3, 8))
    np.testing.assert_allclose(PatchAttention(reduction=2).apply(variables, grid).mean, mean, atol=1e-6)


@pytest.fixture(scope="module")
def pixels():
    return Inputs(normal((1, 1, 3, 8, 8, 3), 1), (8, 8, 3), normal((1, 7, 16), 3))


@pytest.fixture(scope="module")
def conv(pixels):
    """The variables of the convolutions, after they have gathered statistics; and the noise (x) by them."""
    module = Conv(amplitude=0.3)
    variables = tiny_clips.random(jax.eval_shape(lambda key: module.init(key, pixels), KEY))
    return jax.jit(lambda x: module.apply(variables, pixels._replace(x=x)))


def test_convolutions_make_noise_of_one_amplitude(conv, pixels):
    """The root mean square over the pixels of every channel of every image."""
    gaussian = conv(pixels.x)
    for x in (gaussian.mean, gaussian.scale):
        assert x.shape == (1, 1, 3, 8, 8, 3)
        np.testing.assert_allclose(np.sqrt(np.square(x).mean((3, 4))), 0.3, rtol=1e-4)
    assert (gaussian.scale >= 0).all() and (gaussian.mean < 0).any()
    assert np.abs(gaussian.mean[0, 0, 0] - gaussian.mean[0, 0, 1]).max() > 0.01


def test_images_do_not_meet_in_convolutions_after_training(conv, pixels):
    """The norms take what they gathered: other images change no other image's noise."""
    whole = conv(pixels.x)
    changed = conv(pixels.x * np.array([1, -2, 3], np.float32)[:, None, None, None])
    np.testing.assert_allclose(changed.mean[:, :, 0], whole.mean[:, :, 0], atol=1e-6)
    assert np.abs(changed.mean - whole.mean)[:, :, 1:].max() > 1e-3


def test_batch_norm_counts_what_is_no_padding():
    """As PyTorch: by the biased variance in training, and 0.1 of the unbiased one goes into what is gathered."""
    x, weights = 2 + 3 * normal((3, 4, 5, 2), 1), np.array([1, 0, 1], np.float32)
    start = {
        "params": {"scale": np.array([1.5, -2.0], np.float32), "bias": np.array([0.5, 1.0], np.float32)},
        "batch_stats": {"mean": np.array([1.0, -1.0], np.float32), "var": np.array([2.0, 0.5], np.float32)},
    }
    counted = np.float64(x[[0, 2]]).reshape(-1, 2)

    def expected(mean, var):
        return (x - mean) / np.sqrt(var + 1e-5) * start["params"]["scale"] + start["params"]["bias"]

    y, changed = BatchNorm().apply(start, x, weights, mutable="batch_stats")
    np.testing.assert_allclose(y, expected(counted.mean(0), counted.var(0)), rtol=1e-4, atol=1e-5)
    gathered, before = changed["batch_stats"], start["batch_stats"]
    np.testing.assert_allclose(gathered["mean"], 0.9 * before["mean"] + 0.1 * counted.mean(0), rtol=1e-5)
    np.testing.assert_allclose(gathered["var"], 0.9 * before["var"] + 0.1 * counted.var(0, ddof=1), rtol=1e-5)
    y = BatchNorm().apply(start, x, None)
    np.testing.assert_allclose(y, expected(before["mean"], before["var"]), rtol=1e-5, atol=1e-5)


def test_random_convolutions_have_nothing_to_learn(pixels):
    gaussian, variables = start(Conv(control="random", level=0.1), pixels)
    assert not variables and not gaussian.mean.any()
    assert set(jax.eval_shape(lambda key: Conv(control="mean_only").init(key, pixels), KEY)["params"]) == {
        *("stem", *(f"block_{i}_{j}" for i in range(4) for j in (1, 2)), "block_2_shortcut", "block_3_shortcut"),
        "mean",
    }
