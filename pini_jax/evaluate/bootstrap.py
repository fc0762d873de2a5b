"""Bootstrap over images: how far a number would move on other test images of the same kind.

Every run on the same images draws the same resamples, so that differences between runs are paired.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from pini_jax.evaluate.metrics import BINS, confidence_bins
from pini_jax.evaluate.predictions import Answers

COUNT = 1000  # resamples
AT_ONCE = 1 << 24  # numbers of them in memory
LEVEL = 0.95


def resamples(images: int, count: int = COUNT, seed: int = 0) -> Iterator[Float[np.ndarray, "r b"]]:
    """How often each image is in each resample, in blocks; the same for all that have as many images."""
    chance, block = np.random.default_rng(seed), max(1, AT_ONCE // max(images, 1))
    for start in range(0, count, block):
        rows = min(block, count - start)
        drawn = chance.integers(images, size=(rows, images))
        yield np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.float32)


def intervals(answers: Answers, level: float = LEVEL) -> dict[str, list[float]]:
    """[low, high] of accuracy, macro-F1, NLL and ECE: percentiles over resamples.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, Chapter 13.
    """
    answers = answers.labelled()
    found = [_measure(answers, counts) for counts in resamples(len(answers.label))]
    tails = [(1 - level) / 2, (1 + level) / 2]
    names = ("accuracy", "macro_f1", "nll", "ece")
    values = np.concatenate(found, axis=1)
    return {name: np.quantile(x, tails).tolist() for name, x in zip(names, values, strict=True)}


def _measure(answers: Answers, counts: Float[np.ndarray, "r b"]) -> Float[np.ndarray, "4 r"]:
    """The four numbers of every resample, all at once."""
    images = counts.shape[1]
    correct = answers.predicted == answers.label
    confidence = np.exp(answers.log_probabilities[:, 0].astype(np.float64))
    gaps = _sums(counts, confidence_bins(confidence), BINS, correct - confidence)
    classes = int(max(answers.label.max(), answers.predicted.max())) + 1
    hits = _sums(counts, answers.label, classes, correct)
    own, taken = (_sums(counts, x, classes) for x in (answers.label, answers.predicted))
    with np.errstate(invalid="ignore"):
        f1 = np.where(own > 0, 2 * hits / (own + taken), np.nan)
    nll = counts @ -answers.label_log_probability.astype(np.float32) / images
    return np.stack([hits.sum(1) / images, np.nanmean(f1, 1), nll, np.abs(gaps).sum(1) / images])


def _sums(
    counts: Float[np.ndarray, "r b"], groups: np.ndarray, number: int, weights: np.ndarray | float = 1.0
) -> Float[np.ndarray, "r g"]:
    """Of weights over each group of images, in every resample."""
    return np.stack([np.bincount(groups, weights=row * weights, minlength=number) for row in counts])
