"""A run's uncertainty: a temperature, sets of plausible classes, and when an image may be of none of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import softmax

from pini_jax.evaluate import conformal, rejection
from pini_jax.evaluate.predictions import Answers, Kept


class Doubt(NamedTuple):
    """What a run learned about its own uncertainty in one prediction mode.

    Attributes:
        temperature: calibrated probabilities are the softmax of log p / temperature.
        lac, aps: the largest score of a plausible class, of `conformal.SCORES`, at `conformal.LEVEL`.
        known: the score, `rejection.DEFAULT`, that a share `rejection.RECALL` of known images reaches.
        images: the number of held-out images that it is based on.
    """

    temperature: float = 1.0
    lac: float = math.inf
    aps: float = math.inf
    known: float = -math.inf
    images: int = 0

    def calibrated(self, log_probabilities: Float[np.ndarray, "b c"]) -> Float[np.ndarray, "b c"]:
        """Probabilities at the temperature; unchanged if nothing was held out."""
        return softmax(log_probabilities.astype(np.float64) / self.temperature, axis=-1)

    def unsure(self, score: Float[np.ndarray, "b"]) -> Bool[np.ndarray, "b"]:
        """Whether each image may be of none of the classes."""
        return score < self.known

    def plausible(self, probabilities: Float[np.ndarray, "*b c"]) -> Bool[np.ndarray, "*b c"]:
        """Which classes are plausible, given calibrated probabilities; the likeliest always is."""
        likeliest = probabilities == probabilities.max(-1, keepdims=True)
        return (1 - probabilities <= self.lac) | likeliest


NO_DOUBT = Doubt()


def doubts(kept: Kept) -> dict[str, Doubt]:
    """The `Doubt` of every mode, from the held-out images."""
    return {mode: _doubt(answers) for mode, answers in kept.held_out().items()}


def _doubt(held_out: Answers) -> Doubt:
    limits = {name: conformal.threshold(name, held_out) for name in conformal.SCORES}
    known = rejection.cut_off(rejection.SCORES[rejection.DEFAULT](held_out))
    return Doubt(held_out.temperature, **limits, known=known, images=len(held_out.label))


def doubt_record(kept: Kept) -> dict[str, Any]:
    """The entry `doubt` of result.json: for every mode, what was fitted, and how it does on test images."""
    by_mode = kept.by_mode("test")
    classes = len(kept.class_names["test"])
    found = doubts(kept)
    images = max((doubt.images for doubt in found.values()), default=0)
    return {
        "held_out": images,
        "source": kept.calibrated_on,
        "level": conformal.LEVEL,
        "promised_coverage": conformal.promised(images),
        "score": rejection.DEFAULT,
        "modes": {
            mode: _measured(answers, found.get(mode, NO_DOUBT), classes) for mode, answers in by_mode.items()
        },
    }


def _measured(answers: Answers, doubt: Doubt, classes: int) -> dict[str, Any]:
    sets = {
        name: conformal.coverage(name, answers, getattr(doubt, name), classes)._asdict()
        for name in conformal.SCORES
    }
    score = rejection.SCORES[rejection.DEFAULT](answers)
    return to_json(doubt) | {"sets": sets, "unsure": float(doubt.unsure(score).mean())}


def to_json(doubt: Doubt) -> dict[str, Any]:
    """The fields of a `Doubt`; null for infinite values, which JSON cannot represent."""
    return {key: value if math.isfinite(value) else None for key, value in doubt._asdict().items()}


def from_json(content: Mapping[str, Any]) -> Doubt:
    """Reads what `to_json` wrote."""
    return Doubt(**{key: value for key, value in content.items() if value is not None})
