"""What a run knows of its doubt: from held-out images, for whatever comes."""

import math

import numpy as np
import pytest

from pini_jax.evaluate import doubt, predictions, rejection
from pini_jax.evaluate.doubt import NO_DOUBT, Doubt
from pini_jax.evaluate.prediction import summary
from pini_jax.evaluate.predictions import Kept

SCALE, TEMPERATURE, CLASSES = 20.0, 1.6, 6


def logits_of(images, seed):
    chance = np.random.default_rng(seed)
    labels = chance.integers(CLASSES, size=images)
    return (3 * chance.normal(size=(1, images, CLASSES)) + 4 * np.eye(CLASSES)[labels]).astype(np.float32), labels


def answered(images, seed, temperature=TEMPERATURE):
    logits, labels = logits_of(images, seed)
    return predictions.answers([""] * images, labels, summary(logits, SCALE), temperature)


@pytest.fixture(scope="module")
def kept():
    answers = {
        split: {"zero_shot": answered(n, seed), "mean": answered(n, seed)}
        for seed, (split, n) in enumerate({"val": 60, "test": 500}.items())
    }
    names = dict.fromkeys(answers, tuple("abcdef"))
    return Kept(answers, names)


def test_what_is_said_of_the_test_is_what_prediction_does(kept):
    """By probabilities alone."""
    found, said = doubt.doubts(kept)["mean"], doubt.doubt_record(kept)
    logits, labels = logits_of(500, 1)
    predicted = summary(logits, SCALE)
    p = found.calibrated(predicted.log_probabilities)
    np.testing.assert_allclose(p.sum(1), 1)
    of_mode = said["modes"]["mean"]
    assert found.unsure(predicted.energy).mean() == of_mode["unsure"]
    assert found.plausible(p)[np.arange(500), labels].mean() == pytest.approx(
        of_mode["sets"]["lac"]["coverage"], abs=0.01
    )
    assert (said["held_out"], said["source"]) == (60, "val")
    assert 0 < of_mode["unsure"] < 0.2 and of_mode["sets"]["lac"]["coverage"] > 0.75


def test_one_image_alone(kept):
    found = doubt.doubts(kept)["mean"]
    assert found.plausible(np.eye(CLASSES)[0]).tolist() == [True] + [False] * 5


def test_the_selection_that_stands_in_comes_before_validation(kept):
    answers = dict(kept.answers) | {"held_out": kept.answers["test"]}
    assert doubt.doubts(kept._replace(answers=answers))["marginal"].images == 500


def test_without_held_out_images_nothing_is_changed_and_nothing_claimed(kept):
    alone = kept._replace(answers={"test": dict.fromkeys(kept.answers["test"], answered(500, 1, 1.0))})
    assert doubt.doubts(alone) == {}
    said = doubt.doubt_record(alone)["modes"]["mean"]
    assert said["lac"] is None and said["sets"]["lac"] == {"coverage": 1.0, "mean_size": CLASSES}
    assert said["unsure"] == 0
    log_p = np.log([[0.7, 0.3]])
    np.testing.assert_allclose(NO_DOUBT.calibrated(log_p), [[0.7, 0.3]])
    assert NO_DOUBT.plausible(np.array([0.7, 0.3])).all() and not NO_DOUBT.unsure(np.array([-99.0])).any()


def test_json_and_back():
    given = Doubt(1.5, 0.2, math.inf, -3.0, 7)
    assert doubt.from_json(doubt.to_json(given)) == given
    assert rejection.DEFAULT in rejection.SCORES
