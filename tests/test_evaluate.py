"""Prediction: every example once, whatever the batches, and the three modes by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny_clips

from pini_jax import evaluate, rng
from pini_jax.noise.gaussian import draw_mean, draw_replay
from pini_jax.noise.injector import Injector

NUM_IMAGES, NUM_DRAWS, SEED = 10, 4, 3


@pytest.fixture(scope="module")
def phi(injector, clip, prompts):
    phi = tiny_clips.init(injector, jax.random.key(0), prompts)
    return phi | {"prompt_tokens": jax.tree.map(lambda x: 10 * x, phi["prompt_tokens"])}  # noise that shows


@pytest.fixture(scope="module")
def features(clip):
    return np.random.default_rng(0).standard_normal((NUM_IMAGES, clip.embed_dim), np.float32)


@pytest.fixture(scope="module")
def predict(injector, phi, clip, prompts, features):
    """(mode, ...) -> log-probabilities of all images."""
    return functools.partial(
        _predict, injector=injector, phi=phi, theta=clip.theta, text=prompts, features=features
    )


def _predict(mode, num_draws=NUM_DRAWS, seed=SEED, **inputs):
    return evaluate.predict(mode=mode, num_draws=num_draws, seed=seed, **inputs)


@pytest.fixture(scope="module")
def whole(predict):
    """All images in one batch, by mode."""
    return {mode: predict(mode) for mode in evaluate.MODES}


@pytest.fixture(scope="module")
def by_hand(injector, phi, clip, prompts, features):
    """num_draws -> probabilities, from the documented streams and the forward pass of training."""
    root = rng.stream(rng.root(SEED), "predict")

    @functools.partial(jax.jit, static_argnums=0)
    def probabilities(num_draws):
        keys = [jax.random.fold_in(rng.stream(root, "text"), i) for i in range(num_draws)]
        shape = phi["prompt_tokens"]["mean"].shape
        text = [jax.random.normal(rng.stream(key, "prompt_tokens"), shape) for key in keys]
        keys = [rng.stream(rng.stream(root, "image"), "image_features", i) for i in range(NUM_IMAGES)]
        images = [jax.random.normal(key, (num_draws, clip.embed_dim)) for key in keys]
        normals = {"prompt_tokens": jnp.stack(text), "image_features": jnp.stack(images, axis=1)[None]}
        logits = injector.logits(phi, clip.theta, prompts, features, draw_replay(normals))
        return jax.nn.softmax(logits)[0].mean(0)

    return probabilities


def test_mean_adds_the_mean(whole, injector, phi, clip, prompts, features):
    forward = jax.jit(lambda phi: injector.logits(phi, clip.theta, prompts, features, draw_mean))
    expected = scipy.special.log_softmax(forward(phi)[0, 0], axis=-1)
    np.testing.assert_allclose(whole["mean"], expected, atol=1e-5)
    silent = phi | {"prompt_tokens": phi["prompt_tokens"] | {"scale": 0 * phi["prompt_tokens"]["scale"]}}
    np.testing.assert_allclose(forward(silent), forward(phi))


def test_sample_is_one_draw(whole, by_hand):
    np.testing.assert_allclose(np.exp(whole["sample"]), by_hand(1), atol=1e-5)


def test_marginal_is_the_mean_of_probabilities(whole, by_hand):
    np.testing.assert_allclose(np.exp(whole["marginal"]), by_hand(NUM_DRAWS), atol=1e-5)


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_every_image_is_predicted_once_whatever_the_batch(predict, whole, mode):
    """In order: the images differ, and so do their predictions."""
    assert whole[mode].shape == (NUM_IMAGES, len(tiny_clips.NAMES))
    assert len(np.unique(whole[mode].round(6), axis=0)) == NUM_IMAGES
    np.testing.assert_allclose(np.exp(whole[mode]).sum(-1), 1, atol=1e-5)
    assert len(whole[mode]) < evaluate.BATCH
    for batch_size in (1, 3):
        np.testing.assert_allclose(predict(mode, batch_size=batch_size), whole[mode], atol=1e-5)


def test_another_seed_is_another_sample(predict, whole):
    for mode in ("sample", "marginal"):
        np.testing.assert_array_equal(predict(mode), whole[mode])
        assert (np.abs(predict(mode, seed=SEED + 1) - whole[mode]) > 1e-6).all()
    np.testing.assert_array_equal(predict("mean", seed=SEED + 1), whole["mean"])


def test_the_marginal_converges(predict):
    """With more draws, two seeds agree better; a single sample is worse than either."""
    gaps = [
        np.abs(
            np.exp(predict("marginal", num_draws, seed=1)) - np.exp(predict("marginal", num_draws, seed=2))
        ).mean()
        for num_draws in (1, 4, 32)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < gaps[0] / 3


def test_zero_shot_has_no_noise_to_draw(clip, prompts, features):
    zero_shot = dict(injector=Injector(clip.text_tower), phi={}, theta=clip.theta, text=prompts, features=features)
    plain = _predict("mean", **zero_shot)
    for mode in ("sample", "marginal"):
        np.testing.assert_allclose(_predict(mode, **zero_shot), plain, atol=1e-6)
