"""What is reported about a set of predictions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


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


class Information(NamedTuple):
    """What noise tells of the task, in nats; see `information`.

    Attributes:
        standard_error: of the mean over images, of both differences.
    """

    task_entropy: float
    task_cross_entropy: float
    conditional_entropy: float
    mutual_information: float
    usable_information: float
    standard_error: float


def information(
    plain: Float[np.ndarray, "b c"], expected: Float[np.ndarray, "b c"], labels: Int[np.ndarray, "b"]
) -> Information:
    """H(T) - E_{x, y, eps}[-log q(y | x, eps)], measured: above 0, noise is positive-incentive.

    `task_entropy` is H(T) = E_x E_{y ~ p(y|x)}[-log p(y|x)], the entropy of plain CLIP's own predictions, and
    `conditional_entropy` the bound on H(T|E); `mutual_information` is their difference. It punishes noise for the
    confidence of a plain CLIP that errs. Where y are the labels, H(T) is plain CLIP's `task_cross_entropy`, and
    the difference is the `usable_information` that the method adds, of what its mean has learned and of its draws
    together: a method that draws nothing has it too.

    Args:
        plain: log p(c | x) of plain CLIP.
        expected: E_eps[log q(c | x, eps)].

    Source: paper, Section "Positive-incentive Noise"; usable information: Xu et al. 2020,
    https://arxiv.org/abs/2002.10689.
    """
    plain, expected = plain.astype(np.float64), expected.astype(np.float64)
    images = np.arange(len(labels))
    entropy, surprise = -(np.exp(plain) * plain).sum(-1), -plain[images, labels]
    conditional = -expected[images, labels]
    return Information(
        task_entropy=float(entropy.mean()),
        task_cross_entropy=float(surprise.mean()),
        conditional_entropy=float(conditional.mean()),
        mutual_information=float((entropy - conditional).mean()),
        usable_information=float((surprise - conditional).mean()),
        standard_error=float(max(np.std(x - conditional) for x in (entropy, surprise)) / np.sqrt(len(labels))),
    )


def macro_f1(predicted: Int[np.ndarray, "b"], labels: Int[np.ndarray, "b"]) -> float:
    """mean_c 2 tp_c / (2 tp_c + fp_c + fn_c), over the classes that occur in `labels`."""
    scores = []
    for c in np.unique(labels):
        hits = np.sum((predicted == c) & (labels == c))
        scores.append(2 * hits / (np.sum(predicted == c) + np.sum(labels == c)))
    return float(np.mean(scores))


class Reliability(NamedTuple):
    """Predictions in bins ((i-1)/n, i/n] of confidence: how many, what they claim and how many hold, in sums."""

    size: list[int]
    confidence: list[float]
    correct: list[float]


def reliability(
    confidence: Float[np.ndarray, "b"], correct: Bool[np.ndarray, "b"] | Int[np.ndarray, "b"], num_bins: int = 15
) -> Reliability:
    """How confident predictions are, and how right.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, Section 2.
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    sums = (np.bincount(bins, weights=x, minlength=num_bins).tolist() for x in (confidence, correct))
    return Reliability(np.bincount(bins, minlength=num_bins).tolist(), *sums)


def expected_calibration_error(
    confidence: Float[np.ndarray, "b"], correct: Bool[np.ndarray, "b"] | Int[np.ndarray, "b"], num_bins: int = 15
) -> float:
    """sum_i (n_i / b) |accuracy_i - confidence_i| over bins of confidence.

    Source: as of `reliability`.
    """
    found = reliability(confidence, correct, num_bins)
    return float(np.abs(np.subtract(found.correct, found.confidence)).sum() / len(confidence))
