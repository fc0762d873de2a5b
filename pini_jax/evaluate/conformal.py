"""Sets of plausible classes that hold the true one as often as promised.

Held-out images of the same kind as those to come give n scores of their true classes; a class is plausible where
its score is at most their ceil((n + 1) level)-th smallest. Whatever the model, the true class is in the set with
probability >= level, over both the held-out images and the next one. Of *these* held-out images the coverage is a
draw of Beta(k, n + 1 - k), k = ceil((n + 1) level): with few of them it may be far off; see `promised`.

Sources: Vovk et al. 2005, Algorithmic Learning in a Random World; Angelopoulos and Bates 2021,
https://arxiv.org/abs/2107.07511.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betaincinv

from pini_jax.evaluate.predictions import Answers

LEVEL = 0.9
Probabilities = Float[np.ndarray, "b k"]  # of the classes that are kept, the likeliest first


def lac(p: Probabilities, chance: Float[np.ndarray, "b"]) -> Float[np.ndarray, "b k"]:
    """1 - p: the smallest sets on average.

    Source: Sadinle, Lei and Wasserman 2019, https://arxiv.org/abs/1609.00451.
    """
    return 1 - p


def aps(p: Probabilities, chance: Float[np.ndarray, "b"]) -> Float[np.ndarray, "b k"]:
    """The probability of all likelier classes, and a random part of its own: sets grow with doubt.

    Source: Romano, Sesia and Candès 2020, https://arxiv.org/abs/2006.02544.
    """
    return np.cumsum(p, axis=-1) - (1 - chance[:, None]) * p


SCORES: dict[str, Callable[[Probabilities, Float[np.ndarray, "b"]], Float[np.ndarray, "b k"]]] = {
    "lac": lac,
    "aps": aps,
}


def scores(name: str, answers: Answers, seed: int = 0) -> Float[np.ndarray, "b k"]:
    """The conformal scores of each image's stored classes, from calibrated probabilities."""
    chance = np.random.default_rng(seed).random(len(answers.label))
    return SCORES[name](np.exp(answers.calibrated), chance)


def threshold(name: str, held_out: Answers, level: float = LEVEL) -> float:
    """The largest score of a plausible class; infinite with too few images to guarantee the level."""
    held_out = held_out.labelled()
    own = _label_scores(scores(name, held_out, seed=1), held_out)
    k = rank(len(own), level)
    return float(np.sort(own)[k - 1]) if k <= len(own) else math.inf


def rank(images: int, level: float) -> int:
    """ceil((n + 1) level), without the rounding of floats."""
    return math.ceil((images + 1) * level - 1e-9)


def _label_scores(values: Float[np.ndarray, "b k"], answers: Answers) -> Float[np.ndarray, "b"]:
    """The score of the true class; infinite where that is not among those kept."""
    hit = answers.classes == answers.label[:, None]
    return np.where(hit.any(1), values[np.arange(len(values)), hit.argmax(1)], np.inf)


class Sets(NamedTuple):
    """How well sets do on labelled images.

    Attributes:
        coverage: how many hold the true class.
        mean_size: classes in them, of which at most `predictions.KEPT` are known.
    """

    coverage: float
    mean_size: float


def coverage(name: str, answers: Answers, threshold: float, num_classes: int) -> Sets:
    """Coverage and size of the sets on images other than those of the threshold."""
    answers = answers.labelled()
    if math.isinf(threshold):
        return Sets(1.0, float(num_classes))
    found = scores(name, answers)
    plausible: Bool[np.ndarray, "b k"] = found <= threshold
    return Sets(float((_label_scores(found, answers) <= threshold).mean()), float(plausible.sum(1).mean()))


def promised(images: int, level: float = LEVEL, within: float = 0.9) -> list[float]:
    """[low, high] between which the coverage lies, for a share `within` of all sets of so many held-out images."""
    k = rank(images, level)
    if k > images:
        return [1.0, 1.0]
    tails: Int[np.ndarray, "2"] | Float[np.ndarray, "2"] = np.array([(1 - within) / 2, (1 + within) / 2])
    return betaincinv(k, images + 1 - k, tails).tolist()
