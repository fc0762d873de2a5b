"""Sets of plausible classes cover as they promise: simulated, with the temperature fitted on the same images."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax

from pini_jax.evaluate import calibration, conformal, predictions

CLASSES = 8


def answers(images, chance, temperature=1.0):
    """Of a model that is three times too sure."""
    log_p, labels = drawn(images, chance)
    return kept(log_p, labels, temperature)


def drawn(images, chance):
    logits = 1.5 * chance.normal(size=(images, CLASSES))
    labels = (logits + chance.gumbel(size=logits.shape)).argmax(1)
    return log_softmax(3 * logits, axis=1).astype(np.float32), labels


def kept(log_p, labels, temperature):
    given = predictions.Predictions(log_p, log_p, *np.zeros((3, len(labels))))
    return predictions.answers([""] * len(labels), labels, given, temperature)


@pytest.mark.parametrize("name", conformal.SCORES)
@pytest.mark.parametrize("images", [10, 25, 100])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_coverage_is_as_promised(name, images, level):
    """In the mean over held-out images it is the level, or the little more of whole images; and it varies so."""
    chance, found = np.random.default_rng(images), []
    for _ in range(200):
        log_p, labels = drawn(images, chance)
        t = calibration.temperature(log_p, labels)
        limit = conformal.threshold(name, kept(log_p, labels, t), level)
        found.append(conformal.coverage(name, answers(400, chance, t), limit, CLASSES).coverage)
    wanted = conformal.rank(images, level) / (images + 1)
    spread = math.sqrt(wanted * (1 - wanted) / (images + 2))
    assert np.mean(found) == pytest.approx(wanted, abs=4 * spread / math.sqrt(len(found)) + 0.005)
    low, high = conformal.promised(images, level)
    within = np.mean([low - 0.03 <= x <= high + 0.03 for x in found])
    assert within > 0.85


def test_too_few_images_promise_nothing_less_than_all_classes():
    chance = np.random.default_rng(0)
    for images, level in ((8, 0.9), (0, 0.9), (3, 0.8)):
        limit = conformal.threshold("lac", answers(images, chance), level)
        assert math.isinf(limit)
        assert conformal.coverage("lac", answers(50, chance), limit, CLASSES) == (1.0, CLASSES)
        assert conformal.promised(images, level) == [1.0, 1.0]


def test_the_rank_is_not_moved_by_rounding():
    """(9 + 1) 0.9 is 9, and 100 * 0.07 is 7.000000000000001 in floats."""
    assert conformal.rank(9, 0.9) == 9
    assert conformal.rank(99, 0.07) == 7


def test_lac_takes_classes_by_their_probability():
    p = np.log([[0.6, 0.3, 0.1], [0.98, 0.01, 0.01]])
    found = kept(p, np.array([1, 0]), 1.0)
    assert conformal.coverage("lac", found, 0.75, 3) == (1.0, 1.5)


def test_what_is_not_among_the_classes_kept_is_not_covered():
    classes = predictions.KEPT + 2
    log_p = log_softmax(-np.arange(classes, dtype=np.float32)[None], axis=1)
    found = kept(log_p, np.array([classes - 1]), 1.0)
    assert conformal.coverage("aps", found, 1.0, classes).coverage == 0
