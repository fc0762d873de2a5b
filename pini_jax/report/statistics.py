"""Whether methods differ: paired tests by seed and image, corrected for how many there are.

The difference of two methods' accuracies is a mean over seeds `s` and test images `i` of `d_si` (-1, 0 or 1,
averaged over the shots that both have). Both are samples: other seeds would have trained on other images, other
images would have been harder. So the mean varies by

    d* - d = sum_i (w_i - 1/n) d_i  +  t sqrt(v),    v = max(0, s^2 - var_si(residual) / n) / seeds

with `d_i` the mean over seeds, `d_s` that over n images, and s^2 the variance of `d_s`. Images are resampled by
the Bayesian bootstrap (weights w uniform on the simplex). Three seeds are too few to be resampled: what they add
to the variance is multiplied by draws t of Student's distribution instead. They are few even for an estimate of
s^2, so that all comparisons lend each other theirs as far as they agree (`moderated`), which adds to the degrees
of freedom. A test between equal methods then rejects at its level (`tests/report/test_statistics.py`).

Every standard deviation of a report is that of a sample: its sum of squares is divided by n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

LEVEL = 0.05
DRAWS = 10_000
DRAWS_PER_TEST = 40  # the least p-value, times the number of tests, is below the level
BLOCK = 500  # draws at a time


class Difference(NamedTuple):
    """The difference of two methods' mean accuracies, with its own 95 % confidence interval.

    Attributes:
        p: of a two-sided test that there is none, before correction; nan where nothing was repeated.
    """

    mean: float
    low: float
    high: float
    p: float


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation; nan of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def differences(pairs: Sequence[Float[np.ndarray, "s i"]]) -> list[Difference]:
    """Mean, interval and p-value of every pair's d_si; with i = 1, of what is known by seeds alone.

    Source: Bayesian bootstrap: Rubin 1981, https://doi.org/10.1214/aos/1176345338.
    """
    draws = max(DRAWS, DRAWS_PER_TEST * len(pairs))
    by_seed = moderated([pair.mean(1) for pair in pairs])
    by_size: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        by_size.setdefault(pair.shape[1], []).append(number)
    found: dict[int, Difference] = {}
    for numbers in by_size.values():
        means = np.stack([pairs[number].mean(0) for number in numbers])
        for number, errors in zip(numbers, _errors_by_image(means, draws), strict=True):
            found[number] = _difference(pairs[number], by_seed[number], errors)
    return [found[number] for number in range(len(pairs))]


def _errors_by_image(means: Float[np.ndarray, "m i"], draws: int) -> Float[np.ndarray, "m draws"]:
    """sum_i (w_i - 1/n) d_i for draws of the weights that all pairs share."""
    rng = np.random.default_rng(0)
    centred = (means - means.mean(1, keepdims=True)).astype(np.float32)
    blocks = []
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        weights = rng.standard_exponential((size, means.shape[1]), np.float32)
        blocks.append(centred @ (weights / weights.sum(1, keepdims=True)).T)
    return np.concatenate(blocks, axis=1)


def _difference(
    pair: Float[np.ndarray, "s i"], by_seed: Variance, errors: Float[np.ndarray, "draws"]
) -> Difference:
    seeds, images = pair.shape
    mean = float(pair.mean())
    if seeds > 1:
        added = np.sqrt(max(0.0, by_seed.value - residual_variance(pair) / images) / seeds)
        rng = np.random.default_rng(1)
        few = np.isfinite(by_seed.freedom)
        errors = errors + added * (
            rng.standard_t(by_seed.freedom, len(errors)) if few else rng.standard_normal(len(errors))
        )
    elif images == 1:
        return Difference(mean, *[float("nan")] * 3)
    sizes = np.abs(errors)
    half = float(np.quantile(sizes, 1 - LEVEL))
    p = (1 + np.sum(sizes >= abs(mean))) / (1 + len(sizes))
    return Difference(mean, mean - half, mean + half, float(p))


def residual_variance(pair: Float[np.ndarray, "s i"]) -> float:
    """The variance of d_si around the means of its seed and image; 0 with a single image."""
    seeds, images = pair.shape
    residual = pair - pair.mean(0) - pair.mean(1, keepdims=True) + pair.mean()
    return float(np.square(residual).sum() / max(1, (seeds - 1) * (images - 1)))


class Variance(NamedTuple):
    """An estimate, and with how many degrees of freedom."""

    value: float
    freedom: float


def moderated(samples: Sequence[Float[np.ndarray, "s"]]) -> list[Variance]:
    """The variance of every sample, drawn towards what all have in common.

    (f0 v0 + f v) / (f0 + f) with f0 + f degrees of freedom; f0 and v0 are those of the scaled inverse chi-squared
    distribution that the samples' variances v seem to come from: f0 = 0 leaves them alone, as where they are fewer
    than three.

    Source: Smyth 2004, https://doi.org/10.2202/1544-6115.1027, Sections 4 and 6.2.
    """
    own = [Variance(float(np.var(x, ddof=1)), len(x) - 1.0) if len(x) > 1 else Variance(0, 0) for x in samples]
    known = np.array([x for x in own if x.value > 0]).reshape(-1, 2)
    if len(known) < 3:
        return own
    half = known[:, 1] / 2
    logs = np.log(known[:, 0]) - digamma(half) + np.log(half)
    excess = float(np.mean(np.square(logs - logs.mean()) * len(logs) / (len(logs) - 1) - polygamma(1, half)))
    if excess <= 0:
        return [Variance(float(np.exp(logs.mean())), np.inf) if x.value else x for x in own]
    prior = 2 * _inverse_trigamma(excess)
    value = float(np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2)))
    return [
        Variance((prior * value + x.freedom * x.value) / (prior + x.freedom), prior + x.freedom) if x.value else x
        for x in own
    ]


def _inverse_trigamma(value: float) -> float:
    """x > 0 with trigamma(x) = value."""
    return float(brentq(lambda x: polygamma(1, x) - value, 1e-6, 1e8))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: the chance that any of the true hypotheses is rejected stays below the level.

    Source: Holm 1979, https://www.jstor.org/stable/4615733.
    """
    adjusted = np.full(len(p), np.nan)
    known = [i for i in np.argsort(p) if not np.isnan(p[i])]
    highest = 0.0
    for rank, i in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted.tolist()


def alike(differ: Bool[np.ndarray, "m m"]) -> list[tuple[int, int]]:
    """The longest stretches (first, last) of methods in order of which no two differ; none of a single method."""
    ends: list[tuple[int, int]] = []
    for first in range(len(differ)):
        last = first
        while last + 1 < len(differ) and not differ[first : last + 1, last + 1].any():
            last += 1
        if last > first and (not ends or last > ends[-1][1]):
            ends.append((first, last))
    return ends
