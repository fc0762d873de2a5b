"""Prediction: every example once, whatever the batches, and the three modes by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny_clips
from samples import sample

from pini_jax.core import rng
from pini_jax.core.errors import InputError
from pini_jax.evaluate import prediction as evaluate
from pini_jax.methods import forward as stages
from pini_jax.methods.method import Text, Variables
from pini_jax.methods.pini import Injector
from pini_jax.methods.zero_shot import ZeroShot
from pini_jax.noise import sites
from pini_jax.noise.draws import draw_mean, draw_replay

pytestmark = pytest.mark.usefixtures("optimised")

NUM_IMAGES, NUM_DRAWS, SEED = 10, 4, 3


@pytest.fixture(scope="module")
def variables(injector, clip, text):
    phi = tiny_clips.init(injector, jax.random.key(0), clip.theta, text).phi
    # noise that shows
    return Variables(phi | {"prompt_tokens": jax.tree.map(lambda x: 10 * x, phi["prompt_tokens"])})


@pytest.fixture(scope="module")
def features(clip):
    return np.random.default_rng(0).standard_normal((NUM_IMAGES, clip.embed_dim), np.float32)


@pytest.fixture(scope="module")
def predict(injector, variables, clip, text, features):
    """(mode, ...) -> log-probabilities of all images."""
    return functools.partial(
        _predict, method=injector, variables=variables, theta=clip.theta, text=text, images=features
    )


def _predict(mode, num_draws=NUM_DRAWS, seed=SEED, **inputs):
    return evaluate.predict(mode=mode, num_draws=num_draws, seed=seed, **inputs).log_probabilities


@pytest.fixture(scope="module")
def whole(predict):
    """All images in one batch, by mode."""
    return {mode: predict(mode) for mode in evaluate.MODES}


@pytest.fixture(scope="module")
def by_hand(injector, variables, clip, text, features):
    """num_draws -> probabilities [k b c], from the documented streams and the forward pass of training."""
    root = rng.stream(rng.root(SEED), "predict")

    @functools.partial(jax.jit, static_argnums=0)
    def probabilities(num_draws):
        keys = [jax.random.fold_in(rng.stream(root, "text"), i) for i in range(num_draws)]
        shape = (1, *variables.phi["prompt_tokens"]["mean"].shape)
        prompts = [jax.random.normal(rng.stream(key, "prompt_tokens"), shape) for key in keys]
        keys = [rng.stream(rng.stream(root, "image"), "image_features", i) for i in range(NUM_IMAGES)]
        images = [jax.random.normal(key, (num_draws, clip.embed_dim)) for key in keys]
        normals = {"prompt_tokens": jnp.stack(prompts), "image_features": jnp.stack(images, axis=1)[None]}
        logits, _ = stages.forward(injector, variables, clip.theta, text, features, draw_replay(normals))
        return jax.nn.softmax(logits)[0]

    return probabilities


def test_mean_adds_the_mean(whole, injector, variables, clip, text, features):
    forward = jax.jit(
        lambda phi: stages.forward(injector, Variables(phi), clip.theta, text, features, draw_mean)[0]
    )
    phi = variables.phi
    expected = scipy.special.log_softmax(forward(phi)[0, 0], axis=-1)
    np.testing.assert_allclose(whole["mean"], expected, atol=1e-5)
    silent = phi | {"prompt_tokens": phi["prompt_tokens"] | {"scale": 0 * phi["prompt_tokens"]["scale"]}}
    np.testing.assert_allclose(forward(silent), forward(phi))


def test_sample_is_one_draw(whole, by_hand):
    np.testing.assert_allclose(np.exp(whole["sample"]), by_hand(1)[0], atol=1e-5)


def test_marginal_is_the_mean_of_probabilities(whole, by_hand):
    np.testing.assert_allclose(np.exp(whole["marginal"]), by_hand(NUM_DRAWS).mean(0), atol=1e-5)


def test_expected_is_the_mean_of_log_probabilities(by_hand, injector, variables, clip, text, features):
    """Which is below the log of the mean; they are one where there is one draw."""
    inputs = dict(method=injector, variables=variables, theta=clip.theta, text=text, images=features, seed=SEED)
    found = evaluate.predict(mode="marginal", num_draws=NUM_DRAWS, **inputs)
    np.testing.assert_allclose(found.expected, np.log(by_hand(NUM_DRAWS)).mean(0), atol=1e-4)
    assert (found.expected < found.log_probabilities).all()
    one = evaluate.predict(mode="sample", num_draws=NUM_DRAWS, **inputs)
    np.testing.assert_array_equal(one.expected, one.log_probabilities)


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_every_image_is_predicted_once_whatever_the_batch(predict, whole, mode):
    """In order: the images differ, and so do their predictions."""
    assert whole[mode].shape == (NUM_IMAGES, len(tiny_clips.NAMES))
    assert len(np.unique(whole[mode].round(6), axis=0)) == NUM_IMAGES
    np.testing.assert_allclose(np.exp(whole[mode]).sum(-1), 1, atol=1e-5)
    assert len(whole[mode]) < evaluate.BATCHES["features"][-1]
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


def test_zero_shot_has_no_noise_to_draw(clip, text, features):
    zero_shot = dict(method=ZeroShot(clip.text_tower), variables=Variables({}), theta=clip.theta)
    zero_shot |= dict(text=text, images=features)
    plain = _predict("mean", **zero_shot)
    for mode in ("sample", "marginal"):
        np.testing.assert_allclose(_predict(mode, **zero_shot), plain, atol=1e-6)


def test_an_unknown_mode_is_refused(predict):
    with pytest.raises(InputError, match="mode='median' is none of mean, sample, marginal"):
        predict("median")


# ------------------------------------------------------------------------------------------------ pixels

EVERYWHERE = {
    "prompt_tokens": {"generator": "table", "initial_scale": 0.2},
    "text_features": {"generator": "mlp"},
    "pixels": {"generator": "conv", "amplitude": 0.3},
    "patch_tokens": {"generator": "cross_attention"},
    "image_features": {"generator": "mlp"},
}


@pytest.fixture(scope="module")
def of_pixels(clip, text):
    """Noise at all sites, by random parameters and statistics, and images for it."""
    method = Injector(clip.text_tower, sites.build_noise(EVERYWHERE), image_tower=clip.image_tower)
    shapes = jax.eval_shape(lambda key: method.init(key, clip.theta, text), jax.random.key(0))
    side = clip.image_tower.sizes.image_size
    pixels = np.random.default_rng(1).standard_normal((NUM_IMAGES, side, side, 3), np.float32)
    inputs = dict(method=method, variables=tiny_clips.random(shapes), theta=clip.theta, text=text)
    return functools.partial(_predict, num_draws=2, **inputs), pixels


@pytest.mark.parametrize("mode", sample(["mean", "marginal"], "mean"))
def test_images_do_not_meet_where_their_pixels_are_noised(of_pixels, mode):
    """Nor do those that fill up the last batch, nor does their order matter but to the draws."""
    predict, pixels = of_pixels
    whole = predict(mode, images=pixels, batch_size=NUM_IMAGES)
    assert len(np.unique(whole.round(6), axis=0)) == NUM_IMAGES
    np.testing.assert_allclose(predict(mode, images=pixels, batch_size=4), whole, rtol=1e-4, atol=1e-4)
    changed = np.concatenate([pixels[:4], -pixels[4:]])
    other = predict(mode, images=changed, batch_size=4)
    np.testing.assert_array_equal(other[:4], predict(mode, images=pixels, batch_size=4)[:4])
    assert (np.abs(other - whole)[4:].max(-1) > 1e-3).all()


def test_pixels_without_noise_are_plain_clip(clip, text):
    """Of an attention whose heads are zero at all sites of the images."""
    attention = {"generator": "cross_attention"}
    noise = {site.name: attention for site in sites.SITES.values() if site.side == "image"}
    method = Injector(generators=sites.build_noise(noise), image_tower=clip.image_tower)
    classes = Text(text.features)
    shapes = jax.eval_shape(lambda key: method.init(key, clip.theta, classes), jax.random.key(0))
    silent = jax.tree.map_with_path(
        lambda path, x: x * (path[-2].key not in ("mean", "scale")), tiny_clips.random(shapes)
    )
    side = clip.image_tower.sizes.image_size
    pixels = np.random.default_rng(1).standard_normal((4, side, side, 3), np.float32)
    features = tiny_clips.run_stage(clip.image_tower, "__call__", clip.theta["image"], pixels)
    plain = _predict(
        "mean",
        method=ZeroShot(),
        variables=Variables({}),
        theta=clip.theta,
        text=classes,
        images=np.asarray(features),
    )
    ours = _predict("sample", method=method, variables=silent, theta=clip.theta, text=classes, images=pixels)
    np.testing.assert_allclose(ours, plain, atol=1e-5)
