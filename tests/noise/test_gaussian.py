"""Noise is a value: what is drawn from it, and from which stream."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pini_jax.noise.draws import draw_batch, draw_fresh, draw_mean, draw_per_image, draw_replay
from pini_jax.noise.gaussian import Gaussian, displace, divergence, sample

KEY = jax.random.key(0)
# The first axis is that of draws.
GAUSSIAN = Gaussian(jnp.array([[[1.0, -2.0], [0.0, 3.0]]]), jnp.array([[[0.5, 2.0], [0.0, -1.0]]]))


def test_samples_are_normal_with_the_given_mean_and_scale():
    """In every coordinate; a negative scale is as good as a positive one, and zero is no noise."""
    samples = np.asarray(sample(KEY, GAUSSIAN, 4000))
    assert samples.shape == (4000, 2, 2)
    for i in np.ndindex(2, 2):
        mean, scale = float(GAUSSIAN.mean[0][i]), abs(float(GAUSSIAN.scale[0][i]))
        if scale:
            assert scipy.stats.kstest(samples[:, *i], scipy.stats.norm(mean, scale).cdf).pvalue > 0.01
        else:
            assert (samples[:, *i] == mean).all()


def test_coordinates_are_independent():
    samples = np.asarray(sample(KEY, Gaussian(jnp.zeros((1, 3)), jnp.ones((1, 3))), 4000))
    np.testing.assert_allclose(np.corrcoef(samples.T), np.eye(3), atol=0.06)


def test_gradients_reach_mean_and_scale():
    """d sample / d mean = 1 and d sample / d scale = z, the normal that was drawn."""
    z = sample(KEY, Gaussian(jnp.zeros((1, 2, 2)), jnp.ones((1, 2, 2))), 3)
    weights = jnp.arange(12.0).reshape(3, 2, 2)
    gradient = jax.grad(lambda gaussian: (weights * sample(KEY, gaussian, 3)).sum())(GAUSSIAN)
    np.testing.assert_allclose(gradient.mean[0], weights.sum(0), rtol=1e-6)
    np.testing.assert_allclose(gradient.scale[0], (weights * z).sum(0), rtol=1e-5)


def test_displace_by_hand():
    z = np.array([[[1.0, 2.0], [3.0, -1.0]]])
    np.testing.assert_allclose(displace(GAUSSIAN, z), [[[1.5, 2.0], [0.0, 4.0]]])
    np.testing.assert_array_equal(draw_replay({"site": z})("site", GAUSSIAN), displace(GAUSSIAN, z))


def test_a_factor_turns_normals_into_directions():
    """Fewer normals than coordinates; covariance is factor^T diag(scale^2) factor."""
    factor = np.random.default_rng(0).standard_normal((2, 5), np.float32)
    gaussian = Gaussian(
        np.arange(15, dtype=np.float32).reshape(1, 3, 5), np.full((1, 3, 2), 0.5, np.float32), factor
    )
    z = np.random.default_rng(1).standard_normal((4, 3, 2), np.float32)
    np.testing.assert_allclose(displace(gaussian, z), gaussian.mean + 0.5 * z @ factor, rtol=1e-5, atol=1e-6)
    samples = np.asarray(sample(KEY, gaussian, 4000))[:, 1] - gaussian.mean[0, 1]
    np.testing.assert_allclose(np.cov(samples.T), 0.25 * factor.T @ factor, atol=0.1)


@pytest.mark.parametrize("prior", [1.0, 0.3])
def test_divergence_is_the_integral(prior):
    """By quadrature; in all coordinates together, whatever the sign of the scale."""
    means, scales = np.array([[0.0, 1.2, -0.4]]), np.array([[0.3, -2.0, 1.0]])
    expected = 0.0
    for mean, scale in zip(means[0], np.abs(scales[0]), strict=True):
        p, q = scipy.stats.norm(mean, scale), scipy.stats.norm(0, prior)
        x = np.linspace(mean - 12 * scale, mean + 12 * scale, 20001)
        expected += np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
    np.testing.assert_allclose(divergence(Gaussian(means, scales), prior), [expected], rtol=1e-5)


def test_divergence_of_what_does_not_vary_is_that_of_its_mean():
    """And its gradient is none: not infinite."""
    gaussian = Gaussian(jnp.array([[3.0, 0.0]]), jnp.zeros((1, 2)))
    np.testing.assert_allclose(divergence(gaussian, 2.0), [9 / 8], rtol=1e-6)
    gradient = jax.grad(lambda scale: divergence(gaussian._replace(scale=scale), 2.0).sum())(gaussian.scale)
    np.testing.assert_array_equal(gradient, 0)


def test_the_mean_is_one_draw_without_noise():
    np.testing.assert_array_equal(draw_mean("site", GAUSSIAN), GAUSSIAN.mean)


def test_fresh_draws_are_as_many_as_their_site_asks_for():
    draw = draw_fresh(KEY, {"image_features": 5})
    assert draw("image_features", GAUSSIAN).shape == (5, 2, 2)
    assert draw("prompt_tokens", GAUSSIAN).shape == (1, 2, 2)


def test_sites_and_keys_have_streams_of_their_own():
    streams = [
        draw_fresh(key, {"a": 2, "b": 2})(site, GAUSSIAN)
        for key in jax.random.split(KEY, 2)
        for site in ("a", "b")
    ]
    normals = [np.asarray((x - GAUSSIAN.mean)[:, 0]) for x in streams]
    for i, a in enumerate(normals):
        for b in normals[:i]:
            assert (np.abs(a - b) > 1e-6).all()
    np.testing.assert_array_equal(draw_fresh(KEY, {})("a", GAUSSIAN), draw_fresh(KEY, {})("a", GAUSSIAN))


# ------------------------------------------------------------------------------------------------ per image


@pytest.fixture(scope="module")
def images():
    """The noise [1 k b e] of seven images given three draws of the text."""
    rng = np.random.default_rng(1)
    return Gaussian(*rng.standard_normal((2, 1, 3, 7, 4), np.float32))


@functools.partial(jax.jit, static_argnums=2)
def draw_images(some, ids, site):
    return draw_per_image(KEY, ids)(site, some)


def part(images, ids):
    return jax.tree.map(lambda x: x[:, :, np.array(ids)], images)


def per_image(images, ids, site="site"):
    return np.asarray(draw_images(part(images, ids), np.array(ids), site))


def test_an_image_s_draw_does_not_depend_on_its_batch(images):
    whole = per_image(images, range(7))
    assert whole.shape == (1, 3, 7, 4)
    for ids in ([4], [2, 5], [6, 5, 4, 3, 2, 1, 0], [3, 3]):
        np.testing.assert_allclose(per_image(images, ids), whole[:, :, ids], rtol=1e-6)


def test_images_draws_of_the_text_and_sites_differ(images):
    """No two of the 21 standard normals of one coordinate are the same."""
    normals = (per_image(images, range(7)) - images.mean) / images.scale
    assert len(np.unique(normals.round(4))) == normals.size
    other = (per_image(images, range(7), "other") - images.mean) / images.scale
    assert (np.abs(normals - other) > 1e-6).all()


def test_per_image_draws_are_standard_normal():
    zero = Gaussian(np.zeros((1, 2, 400, 5), np.float32), np.ones((1, 2, 400, 5), np.float32))
    assert scipy.stats.kstest(per_image(zero, range(400)).ravel(), "norm").pvalue > 0.01


def test_a_batch_s_draws_are_one_for_the_text_and_some_for_every_image():
    """Another size of the batch changes no draw of an image that is in both."""
    draw = draw_batch(KEY, 7, {"image_features": 3, "text_features": 2})
    assert draw("prompt_tokens", GAUSSIAN).shape == (1, 2, 2)
    assert draw("text_features", GAUSSIAN).shape == (2, 2, 2)
    standard = Gaussian(jnp.zeros((1, 3, 7, 4)), jnp.ones((1, 3, 7, 4)))
    drawn = draw("image_features", standard)
    assert drawn.shape == (3, 3, 7, 4) and len(np.unique(drawn)) == drawn.size
    fewer = draw_batch(KEY, 5, {"image_features": 3})("image_features", part(standard, range(5)))
    np.testing.assert_array_equal(fewer, drawn[:, :, :5])


def test_what_was_drawn_before_is_drawn_once_more():
    """As noise of patches, where that of pixels has made three of every image."""
    three = Gaussian(jnp.zeros((3, 2, 5, 4)), jnp.ones((3, 2, 5, 4)))
    drawn = draw_batch(KEY, 5, {"patch_tokens": 3})("patch_tokens", three)
    assert drawn.shape == (3, 2, 5, 4) and len(np.unique(drawn)) == drawn.size
