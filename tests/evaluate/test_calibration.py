"""A temperature mends what is too sure, and does little where there is little to go by."""

import numpy as np
import pytest
from scipy.special import log_softmax

from pini_jax.evaluate import calibration, predictions
from pini_jax.evaluate import metrics as measured


def simulated(images: int, truth: float, classes: int = 6, seed: int = 0):
    """Predictions that are `truth` times too sure, and labels."""
    chance = np.random.default_rng(seed)
    logits = 2 * chance.normal(size=(images, classes))
    labels = (logits + chance.gumbel(size=logits.shape)).argmax(1)
    return log_softmax(truth * logits, axis=1).astype(np.float32), labels


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0, 25.0])
def test_the_true_temperature_is_found(truth):
    assert calibration.temperature(*simulated(4000, truth)) == pytest.approx(truth, rel=0.1)


def test_few_images_move_it_little_and_none_not_at_all():
    """All of three images right would ask for T = 0."""
    log_p, _ = simulated(3, 1.0)
    assert 0.5 < calibration.temperature(log_p, log_p.argmax(1)) < 1
    assert calibration.temperature(log_p[:0], np.zeros(0, int)) == 1.0


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_calibrated_metrics_are_those_at_the_temperature(truth):
    log_p, labels = simulated(3000, truth)
    t = calibration.temperature(*simulated(300, truth, seed=1))
    given = predictions.Predictions(log_p, log_p, *np.zeros((3, len(labels))))
    found = measured.measure(predictions.answers([""] * len(labels), labels, given, t))
    wanted = measured.metrics(log_softmax(log_p.astype(np.float64) / t, axis=1), labels)
    for name in ("nll", "ece", "brier", "adaptive_ece"):
        assert getattr(found, f"calibrated_{name}") == pytest.approx(getattr(wanted, name), abs=1e-6), name
    assert found.nll == measured.metrics(log_p, labels).nll  # as it was
    if truth != 1:
        assert found.calibrated_nll < found.nll and found.calibrated_ece < found.ece / 2


def test_likely_and_unlikely_predictions_keep_their_order():
    """A temperature changes no prediction."""
    log_p, labels = simulated(200, 3.0)
    given = predictions.Predictions(log_p, log_p, *np.zeros((3, len(labels))))
    found = predictions.answers([""] * len(labels), labels, given, 3.0)
    np.testing.assert_array_equal(found.predicted, log_p.argmax(1))
    assert (np.diff(found.calibrated, axis=1) <= 1e-6).all()
