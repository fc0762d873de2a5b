"""What is reported about a set of predictions; images without a label count for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pini_jax.evaluate.predictions import Answers, without_draws

BINS = 15  # of calibration errors


class Metrics(NamedTuple):
    """Fractions in [0, 1]; `nll` in nats; `brier`, sum_c (p_c - y_c)^2, in [0, 2].

    `calibrated_...`: of probabilities at the mode's temperature.
    """

    accuracy: float
    macro_f1: float
    nll: float
    ece: float
    balanced_accuracy: float
    brier: float
    adaptive_ece: float
    calibrated_nll: float
    calibrated_ece: float
    calibrated_brier: float
    calibrated_adaptive_ece: float


def metrics(log_probabilities: Float[np.ndarray, "b c"], labels: Int[np.ndarray, "b"]) -> Metrics:
    """All metrics of b uncalibrated predictions."""
    return measure(without_draws(log_probabilities, labels))


def measure(answers: Answers) -> Metrics:
    """All metrics, from stored predictions."""
    answers = answers.labelled()
    own, correct = answers.label_log_probability, answers.predicted == answers.label
    likeliest = answers.log_probabilities[:, 0].astype(np.float64)
    confidence, calibrated = np.exp(likeliest), np.exp(likeliest / answers.temperature - answers.normaliser)
    return Metrics(
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(answers.predicted, answers.label),
        nll=float(-own.mean()),
        ece=expected_calibration_error(confidence, correct),
        balanced_accuracy=balanced_accuracy(answers.predicted, answers.label),
        brier=brier(own, answers.squares),
        adaptive_ece=adaptive_calibration_error(confidence, correct),
        calibrated_nll=float(-answers.label_calibrated.mean()),
        calibrated_ece=expected_calibration_error(calibrated, correct),
        calibrated_brier=brier(answers.label_calibrated, answers.calibrated_squares),
        calibrated_adaptive_ece=adaptive_calibration_error(calibrated, correct),
    )


class Information(NamedTuple):
    """What noise tells about the task, in nats; see `information`.

    Attributes:
        standard_error: the larger standard error of both differences, over images.
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
    """H(T) - E_{x, y, eps}[-log q(y | x, eps)], measured: noise is positive-incentive if it is above 0.

    `task_entropy` is H(T) = E_x E_{y ~ p(y|x)}[-log p(y|x)], the entropy of zero-shot CLIP's own predictions, and
    `conditional_entropy` the bound on H(T|E); `mutual_information` is their difference. It penalises the noise
    when zero-shot CLIP is overconfident. If y are the labels, H(T) becomes zero-shot CLIP's `task_cross_entropy`,
    and the difference is the `usable_information` that the method adds by its mean and its draws: a method
    that draws nothing has it too.

    Args:
        plain: log p(c | x) of zero-shot CLIP.
        expected: E_eps[log q(c | x, eps)].

    Source: paper, Section "Positive-incentive Noise"; usable information: Xu et al. 2020,
    https://arxiv.org/abs/2002.10689.
    """
    return measure_information(*(without_draws(x, labels) for x in (plain, expected)))


def measure_information(plain: Answers, noisy: Answers) -> Information:
    """`information` from stored predictions of zero-shot CLIP and of the method's draws, on the same images."""
    plain, noisy = plain.labelled(), noisy.labelled()
    entropy, surprise, conditional = plain.entropy, -plain.label_log_probability, -noisy.label_expected
    mutual, usable = (_gain(-before, -conditional) for before in (entropy, surprise))
    return Information(
        task_entropy=float(entropy.mean()),
        task_cross_entropy=float(surprise.mean()),
        conditional_entropy=float(conditional.mean()),
        mutual_information=mutual.nats,
        usable_information=usable.nats,
        standard_error=max(mutual.standard_error, usable.standard_error),
    )


class Gain(NamedTuple):
    """A mean over images, in nats, with its standard error."""

    nats: float
    standard_error: float


class GainsOfDraws(NamedTuple):
    """What draws add to their own mean; see `gains_of_draws`."""

    single: Gain
    averaged: Gain
    calibrated: Gain


def gains_of_draws(mean: Answers, marginal: Answers) -> GainsOfDraws:
    """By how much the surprisal of the label y is lower under draws than under the mean of the noise alone.

    single      E_eps[log q(y | x, eps)] - log q(y | x, mean)
    averaged    log E_eps[q(y | x, eps)] - log q(y | x, mean), never below `single`
    calibrated  the same, each at its own temperature

    Above 0, noise is positive-incentive by its draws alone. Averaging draws makes predictions less confident;
    where the mean was overconfident this alone helps, as a temperature would, and `calibrated` does not count it.

    Args:
        marginal: by the draws over which E_eps is taken.
    """
    mean, marginal = mean.labelled(), marginal.labelled()
    own, average = (x.label_log_probability for x in (mean, marginal))
    calibrated = _gain(mean.label_calibrated, marginal.label_calibrated)
    return GainsOfDraws(_gain(own, marginal.label_expected), _gain(own, average), calibrated)


def _gain(before: Float[np.ndarray, "b"], after: Float[np.ndarray, "b"]) -> Gain:
    differences = after - before
    return Gain(float(differences.mean()), float(np.std(differences) / np.sqrt(max(1, len(differences) - 1))))


# --------------------------------------------------------------------------------------------------- by class


def confusion(answers: Answers, num_classes: int) -> Int[np.ndarray, "c c"]:
    """The confusion matrix: how many images of each class (row) are predicted as each class (column)."""
    answers = answers.labelled()
    pairs = answers.label.astype(np.int64) * num_classes + answers.predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


class ByClass(NamedTuple):
    """Images, precision and recall of every class; NaN for a class that is never predicted, or has no images."""

    images: Int[np.ndarray, "c"]
    precision: Float[np.ndarray, "c"]
    recall: Float[np.ndarray, "c"]


def by_class(confusion: Int[np.ndarray, "c c"]) -> ByClass:
    """Images, precision and recall by class, from a confusion matrix."""
    hits, images, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        return ByClass(images, hits / predicted, hits / images)


def macro_f1(predicted: Int[np.ndarray, "b"], labels: Int[np.ndarray, "b"]) -> float:
    """mean_c 2 tp_c / (2 tp_c + fp_c + fn_c), over the classes that occur in `labels`."""
    images, hits = _counts(predicted, labels)
    taken = np.bincount(predicted, minlength=len(images))[: len(images)]
    return float((2 * hits / np.maximum(images + taken, 1))[images > 0].mean())


def balanced_accuracy(predicted: Int[np.ndarray, "b"], labels: Int[np.ndarray, "b"]) -> float:
    """The mean recall of the classes that occur in `labels`."""
    images, hits = _counts(predicted, labels)
    return float((hits[images > 0] / images[images > 0]).mean())


def _counts(
    predicted: Int[np.ndarray, "b"], labels: Int[np.ndarray, "b"]
) -> tuple[Int[np.ndarray, "c"], Int[np.ndarray, "c"]]:
    """Of each class up to the largest label: its images, and those that are right."""
    images = np.bincount(labels)
    return images, np.bincount(labels[predicted == labels], minlength=len(images))


# ----------------------------------------------------------------------------------------------- of probabilities


def brier(own: Float[np.ndarray, "b"], squares: Float[np.ndarray, "b"]) -> float:
    """mean_i sum_c (p_ic - y_ic)^2, from the labels' log-probabilities and sum_c p_ic^2.

    Source: Brier 1950, Verification of forecasts expressed in terms of probability.
    """
    return float((squares - 2 * np.exp(own) + 1).mean())


class Reliability(NamedTuple):
    """Sums over predictions in bins ((i-1)/n, i/n] of confidence: their number, their confidence and how many are
    correct.
    """

    size: Sequence[float]
    confidence: Sequence[float]
    correct: Sequence[float]


def confidence_bins(confidence: Float[np.ndarray, "b"], num_bins: int = BINS) -> Int[np.ndarray, "b"]:
    """The bin of every prediction, from 0."""
    return np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)


def reliability(
    confidence: Float[np.ndarray, "b"], correct: Bool[np.ndarray, "b"] | Int[np.ndarray, "b"], num_bins: int = BINS
) -> Reliability:
    """Bins predictions by confidence, for a reliability diagram.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, Section 2.
    """
    bins = confidence_bins(confidence, num_bins)
    sums = (np.bincount(bins, weights=x, minlength=num_bins).tolist() for x in (confidence, correct))
    return Reliability(np.bincount(bins, minlength=num_bins).tolist(), *sums)


def expected_calibration_error(
    confidence: Float[np.ndarray, "b"], correct: Bool[np.ndarray, "b"] | Int[np.ndarray, "b"], num_bins: int = BINS
) -> float:
    """sum_i (n_i / b) |accuracy_i - confidence_i| over bins of confidence.

    Source: as of `reliability`.
    """
    return calibration_error(reliability(confidence, correct, num_bins))


def calibration_error(bins: Reliability) -> float:
    """The same of bins, which may be of several runs together."""
    return float(np.abs(np.subtract(bins.correct, bins.confidence)).sum() / np.sum(bins.size))


def adaptive_calibration_error(
    confidence: Float[np.ndarray, "b"], correct: Bool[np.ndarray, "b"] | Int[np.ndarray, "b"], num_bins: int = BINS
) -> float:
    """The expected calibration error over bins with equal numbers of images.

    Source: Nixon et al. 2019, https://arxiv.org/abs/1904.01685, Section 4.
    """
    gap = (correct - confidence)[np.argsort(confidence, kind="stable")]
    return float(sum(abs(part.sum()) for part in np.array_split(gap, num_bins)) / len(gap))
