"""What is reported about a set of predictions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Metrics(NamedTuple):
    """Fractions in [0, 1]; `nll` in nats."""

    accuracy: float
    macro_f1: float
    nll: float
    ece: float


def metrics(log_probabilities: Float[np.ndarray, "b c"], labels: Int[np.ndarray, "b"]) -> Metrics:
    """Accuracy, macro-F1, negative log-likelihood and expected calibration error of b predictions."""
    log_probabilities = log_probabilities.astype(np.float64)
    predicted = log_probabilities.argmax(-1)
    return Metrics(
        accuracy=float((predicted == labels).mean()),
        macro_f1=macro_f1(predicted, labels),
        nll=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        ece=expected_calibration_error(np.exp(log_probabilities.max(-1)), predicted == labels),
    )


def macro_f1(predicted: Int[np.ndarray, "b"], labels: Int[np.ndarray, "b"]) -> float:
    """mean_c 2 tp_c / (2 tp_c + fp_c + fn_c), over the classes that occur in `labels`."""
    scores = []
    for c in np.unique(labels):
        hits = np.sum((predicted == c) & (labels == c))
        scores.append(2 * hits / (np.sum(predicted == c) + np.sum(labels == c)))
    return float(np.mean(scores))


def expected_calibration_error(
    confidence: Float[np.ndarray, "b"], correct: Int[np.ndarray, "b"], num_bins: int = 15
) -> float:
    """sum_i (n_i / b) |accuracy_i - confidence_i| over bins ((i-1)/num_bins, i/num_bins].

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, Section 2.
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidence))
