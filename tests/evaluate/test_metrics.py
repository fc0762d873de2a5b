"""Metrics, against scikit-learn and by hand."""

import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from pini_jax.evaluate import metrics
from pini_jax.evaluate.prediction import Predictions
from pini_jax.evaluate.predictions import answers, without_draws

NUM_CLASSES = 5


def predictions(seed, classes=NUM_CLASSES, b=200, sharpness=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, b)
    logits = rng.standard_normal((b, NUM_CLASSES)) * sharpness
    return scipy.special.log_softmax(logits + 2 * np.eye(NUM_CLASSES)[labels], axis=-1).astype(np.float32), labels


@pytest.mark.parametrize("classes", [NUM_CLASSES, 3], ids=["all classes", "two classes never occur"])
@pytest.mark.parametrize("seed", range(3))
def test_as_scikit_learn(seed, classes):
    log_p, labels = predictions(seed, classes)
    predicted = log_p.argmax(-1)
    found = metrics.metrics(log_p, labels)
    assert found.accuracy == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted), abs=1e-12)
    f1 = sklearn.metrics.f1_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert found.macro_f1 == pytest.approx(f1, abs=1e-12)
    p = np.exp(log_p.astype(np.float64))
    nll = sklearn.metrics.log_loss(labels, p / p.sum(-1, keepdims=True), labels=range(NUM_CLASSES))
    assert found.nll == pytest.approx(nll, rel=1e-5)
    recall = sklearn.metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert found.balanced_accuracy == pytest.approx(recall, abs=1e-12)
    brier = np.square(p - np.eye(NUM_CLASSES)[labels]).sum(1).mean()
    assert found.brier == pytest.approx(brier, rel=1e-5)


def test_by_class_as_scikit_learn():
    """Class 2 never occurs, and class 4 is never predicted."""
    chance = np.random.default_rng(0)
    labels, predicted = chance.choice([0, 1, 3, 4], 100), chance.choice([0, 1, 2, 3], 100)
    log_p = np.log(np.full((100, 5), 0.1) + 0.5 * np.eye(5)[predicted])
    table = metrics.confusion(without_draws(log_p, labels), 5)
    np.testing.assert_array_equal(table, sklearn.metrics.confusion_matrix(labels, predicted, labels=range(5)))
    found = metrics.by_class(table)
    kinds = ("precision", "recall")
    for kind in kinds:
        score = getattr(sklearn.metrics, f"{kind}_score")
        wanted = score(labels, predicted, labels=range(5), average=None, zero_division=np.nan)
        np.testing.assert_allclose(getattr(found, kind), wanted)
    assert found.images.tolist() == np.bincount(labels, minlength=5).tolist()


def test_images_without_a_label_count_for_nothing():
    log_p, labels = predictions(0)
    some = np.where(np.arange(len(labels)) % 3 == 0, -1, labels)
    known = some >= 0
    assert metrics.measure(without_draws(log_p, some)) == metrics.metrics(log_p[known], labels[known])


def test_adaptive_error_as_a_loop_over_bins_of_equal_size():
    chance = np.random.default_rng(0)
    confidence = chance.uniform(0.2, 1.0, 300)
    correct = chance.random(300) < confidence**2
    order = np.argsort(confidence).reshape(15, 20)
    wanted = np.mean([abs(correct[i].mean() - confidence[i].mean()) for i in order])
    assert metrics.adaptive_calibration_error(confidence, correct) == pytest.approx(wanted, abs=1e-12)


def test_a_class_that_is_never_predicted_counts_as_zero():
    assert metrics.macro_f1(np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1])) == pytest.approx((0.8 + 1 + 0) / 3)


def test_information_by_a_loop():
    """Over images, classes and draws."""
    plain, labels = predictions(0)
    draws = [predictions(seed)[0] for seed in (1, 2, 3)]
    expected = np.mean(draws, axis=0)
    found = metrics.information(plain, expected, labels)
    entropy, surprise, conditional = [], [], []
    for b, label in enumerate(labels):
        entropy.append(sum(-np.exp(x) * x for x in np.float64(plain[b])))
        surprise.append(-float(plain[b, label]))
        conditional.append(np.mean([-float(draw[b, label]) for draw in draws]))
    assert found.task_entropy == pytest.approx(np.mean(entropy), rel=1e-6)
    assert found.task_cross_entropy == pytest.approx(np.mean(surprise), rel=1e-6)
    assert found.conditional_entropy == pytest.approx(np.mean(conditional), rel=1e-6)
    assert found.mutual_information == pytest.approx(np.mean(entropy) - np.mean(conditional), rel=1e-5)
    assert found.usable_information == pytest.approx(np.mean(surprise) - np.mean(conditional), rel=1e-5)
    spreads = [np.std(np.subtract(x, conditional), ddof=1) for x in (entropy, surprise)]
    assert found.standard_error == pytest.approx(max(spreads) / len(labels) ** 0.5, rel=1e-5)


def test_gains_of_draws_by_a_loop():
    """Over images and draws, before and after temperatures."""
    mean, labels = predictions(0)
    draws = [np.float64(predictions(seed)[0]) for seed in (1, 2, 3)]
    average = np.log(np.mean(np.exp(draws), axis=0))
    unknown = np.full(len(labels), np.nan)
    temperatures = {"mean": 2.0, "marginal": 0.5}
    of_mean, of_draws = (
        answers([""] * len(labels), labels, Predictions(log_p, expected, *[unknown] * 3), temperatures[mode])
        for mode, log_p, expected in (("mean", mean, mean), ("marginal", average, np.mean(draws, axis=0)))
    )
    found = metrics.gains_of_draws(of_mean, of_draws)
    single, averaged, calibrated = [], [], []
    for b, label in enumerate(labels):
        single.append(np.mean([draw[b, label] for draw in draws]) - mean[b, label])
        averaged.append(average[b, label] - mean[b, label])
        cool = [x[b] / t - np.log(np.exp(x[b] / t).sum()) for x, t in ((mean, 2.0), (average, 0.5))]
        calibrated.append(cool[1][label] - cool[0][label])
    for gain, by_hand in zip(found, (single, averaged, calibrated), strict=True):
        assert gain.nats == pytest.approx(np.mean(by_hand), rel=1e-5)
        assert gain.standard_error == pytest.approx(np.std(by_hand, ddof=1) / len(labels) ** 0.5, rel=1e-5)
    assert found.single.nats < found.averaged.nats


def test_draws_that_are_all_the_mean_gain_nothing():
    same = without_draws(*predictions(0))
    gains = metrics.gains_of_draws(same, same)
    assert set(gains) == {metrics.Gain(0.0, 0.0)}


def test_noise_that_does_nothing_tells_nothing():
    plain, labels = predictions(0)
    assert metrics.information(plain, plain, labels).usable_information == 0


def ece_by_loop(confidence, correct, num_bins=15):
    total = 0.0
    for i in range(num_bins):
        low, high = i / num_bins, (i + 1) / num_bins
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_bins", [15, 4])
def test_ece_as_a_loop_over_bins(seed, num_bins):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1.0, 300)
    correct = rng.random(300) < confidence**2
    found = metrics.expected_calibration_error(confidence, correct, num_bins)
    assert found == pytest.approx(ece_by_loop(confidence, correct, num_bins), abs=1e-12)
    log_p, labels = predictions(seed)
    confidence = np.exp(log_p.astype(np.float64).max(-1))
    found = metrics.metrics(log_p, labels).ece
    assert found == pytest.approx(ece_by_loop(confidence, log_p.argmax(-1) == labels), abs=1e-12)


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([1.0, 1.0], [1, 1], 0.0),
        ([1.0, 1.0], [1, 0], 0.5),
        ([0.6], [1], 0.4),
        # a bin owns its upper edge, so these two share (0.25, 0.5] and cancel
        ([0.5, 0.3], [0, 1], 0.1),
        # and these two do not share a bin
        ([0.5, 0.51], [0, 1], (0.5 + 0.49) / 2),
        # nor is 0.25 in the bin above it
        ([0.25, 0.3], [0, 1], (0.25 + 0.7) / 2),
    ],
)
def test_ece_by_hand(confidence, correct, expected):
    found = metrics.expected_calibration_error(np.array(confidence), np.array(correct), num_bins=4)
    assert found == pytest.approx(expected, abs=1e-12)


def test_certainty_is_in_the_last_bin_even_when_rounding_exceeds_it():
    """log-probabilities in float32 may exceed 0 by a rounding error."""
    log_p = np.array([[1e-7, -40.0], [-40.0, 1e-7]], np.float32)
    found = metrics.metrics(log_p, np.array([0, 0]))
    assert found.ece == pytest.approx(0.5, abs=1e-6)
    assert found.nll == pytest.approx(20.0, rel=1e-6)
    assert all(isinstance(value, float) for value in found)


def test_reliability_counts_every_prediction_once():
    """A bin owns its upper edge, and 0 is in the first."""
    confidence, correct = np.array([0.0, 0.25, 0.3, 0.5, 1.0]), np.array([0, 1, 1, 0, 1])
    found = metrics.reliability(confidence, correct, num_bins=4)
    assert found == ([2, 2, 0, 1], [0.25, 0.8, 0.0, 1.0], [1, 1, 0, 1])
