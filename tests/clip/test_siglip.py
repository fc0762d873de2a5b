"""A SigLIP through the whole method: bidirectional text, last-token pooling, a bias on the logits."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_clips import NAMES, NOISE, init, run_stage

from pini_jax import config
from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.evaluate import prediction as evaluate
from pini_jax.methods import forward as stages
from pini_jax.methods.method import Text, Variables
from pini_jax.methods.pini import Injector
from pini_jax.methods.zero_shot import ZeroShot
from pini_jax.noise import sites
from pini_jax.runs import experiment

FOLDER = Path(__file__).parent.parent / "recordings" / "transformers_siglip"


@pytest.fixture(scope="module")
def clip():
    return pretrained.load_clip(str(FOLDER))


@pytest.fixture(scope="module")
def built(clip):
    return prompts.build(clip.tokenizer, "x x {}", NAMES[:2], clip.text_tower.sizes)


@pytest.fixture(scope="module")
def text(clip, built):
    return Text(zero_shot.encode_classes(clip.text_tower, clip.theta, built), built)


def test_every_class_is_encoded_whole(clip, built):
    """The features are those of the padded sequences, not of what precedes a suffix."""
    whole = np.array([[*built.start, *built.prefix, *suffix] for suffix in built.suffix])
    assert whole.shape[1] == clip.text_tower.sizes.context_length
    last = np.full(len(whole), whole.shape[1] - 1)
    expected = run_stage(clip.text_tower, "__call__", clip.theta["text"], whole, last)
    ours = zero_shot.encode_classes(clip.text_tower, clip.theta, built)[0]
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_zero_noise_is_the_plain_model(clip, text, mode):
    noisy = Injector(clip.text_tower, sites.build_noise(NOISE))
    silent = jax.tree.map(np.zeros_like, init(noisy, jax.random.key(0), clip.theta, text))
    features = np.random.default_rng(0).standard_normal((3, clip.embed_dim), np.float32)

    def predict(method, variables, mode):
        return evaluate.predict(method, variables, clip.theta, text, features, mode, num_draws=1, seed=0)

    plain = predict(ZeroShot(clip.text_tower), Variables({}), "mean")
    jax.tree.map(np.testing.assert_array_equal, predict(noisy, silent, mode), plain)


def test_the_bias_is_in_the_logits_and_not_in_the_probabilities(clip, text):
    method, features = ZeroShot(clip.text_tower), np.ones((2, clip.embed_dim), np.float32)
    without = {key: part for key, part in clip.theta.items() if key != "logit_bias"}
    forward = jax.jit(lambda theta: stages.forward(method, Variables({}), theta, text, features)[0])
    biased, plain = (forward(theta) for theta in (clip.theta, without))
    np.testing.assert_allclose(biased - plain, float(clip.theta["logit_bias"]), rtol=1e-5)
    same = [
        evaluate.predict(method, Variables({}), theta, text, features, "mean", num_draws=1, seed=0)
        for theta in (clip.theta, without)
    ]
    np.testing.assert_allclose(same[0].log_probabilities, same[1].log_probabilities, atol=1e-5)


@pytest.mark.long
def test_a_run_trains_it_and_says_what_it_costs(tmp_path, caplog):
    settings = config.Config(
        clip=str(FOLDER),
        template="x x {}",
        zero_shot_template="{}",
        image_size=20,
        shots=1,
        views=1,
        num_draws=2,
        noise=sites.noise_with_defaults(NOISE),
        optim=dataclasses.replace(config.Optim(), lr=0.1, epochs=4),
    )
    with caplog.at_level(logging.INFO):
        result = experiment.train_and_evaluate(settings, tmp_path)
    assert "no shared prefix" in caplog.text
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == result["steps"] == 4
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(losses).all()
    assert result["test"]["mean"] != result["zero_shot"]
