"""The bootstrap: what resamples give is what metrics give, and runs are paired."""

import numpy as np
import pytest
from scipy.special import log_softmax

from pini_jax.evaluate import bootstrap, metrics, predictions


def log_probabilities(images, classes=4, seed=0):
    chance = np.random.default_rng(seed)
    return log_softmax(2 * chance.normal(size=(images, classes)), axis=1), chance.integers(classes, size=images)


def test_a_resample_is_measured_as_if_it_were_the_test_set():
    log_p, labels = log_probabilities(40)
    counts = next(bootstrap.resamples(40, count=3))
    found = bootstrap._measure(predictions.without_draws(log_p, labels), counts)
    for row, numbers in zip(counts.astype(int), found.T, strict=True):
        taken = np.repeat(np.arange(40), row)
        wanted = metrics.metrics(log_p[taken], labels[taken])
        np.testing.assert_allclose(numbers, [wanted.accuracy, wanted.macro_f1, wanted.nll, wanted.ece], rtol=1e-5)


def test_resamples_are_the_same_for_all_and_whole():
    first, second = (np.concatenate(list(bootstrap.resamples(30, count=50))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (50, 30) and (first.sum(1) == 30).all()


def test_blocks_change_nothing(monkeypatch):
    whole = np.concatenate(list(bootstrap.resamples(30, count=50)))
    monkeypatch.setattr(bootstrap, "AT_ONCE", 100)
    np.testing.assert_array_equal(np.concatenate(list(bootstrap.resamples(30, count=50))), whole)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of an accuracy of 0.7 in 200 test sets."""
    hits = []
    for seed in range(200):
        chance = np.random.default_rng(seed)
        labels = (chance.random(120) > 0.7).astype(int)  # class 0 is always predicted
        log_p = np.log(np.tile([0.7, 0.3], (120, 1)))
        low, high = bootstrap.intervals(predictions.without_draws(log_p, labels))["accuracy"]
        hits.append(low <= 0.7 <= high)
    assert 0.88 <= np.mean(hits) <= 0.99


def test_one_image_has_an_interval():
    found = bootstrap.intervals(predictions.without_draws(np.log([[0.7, 0.3]]), np.array([0])))
    assert found["accuracy"] == [1.0, 1.0] and found["nll"] == pytest.approx([-np.log(0.7)] * 2, rel=1e-5)
