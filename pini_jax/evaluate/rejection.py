"""None of these: a score that is high for images of known classes; a run is unsure below a threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy  # which loads its parts at their first use: half a second
from jaxtyping import Float

from pini_jax.evaluate.predictions import Answers

DEFAULT = "energy"
RECALL = 0.95  # of images of known classes that are not rejected

# Hendrycks and Gimpel 2017, https://arxiv.org/abs/1610.02136; Liu et al. 2020, https://arxiv.org/abs/2010.03759;
# Ming et al. 2022, https://arxiv.org/abs/2211.13445; Houlsby et al. 2011, https://arxiv.org/abs/1112.5745.
SCORES: dict[str, Callable[[Answers], Float[np.ndarray, "b"]]] = {
    "max_probability": lambda answers: answers.log_probabilities[:, 0].astype(np.float64),
    "entropy": lambda answers: -answers.entropy,
    "energy": lambda answers: answers.energy,
    "concept_matching": lambda answers: answers.match,
    "agreement": lambda answers: answers.draw_entropy - answers.entropy,  # minus mutual information over draws
}


class Rejection(NamedTuple):
    """How well a score separates unknown from known images.

    Attributes:
        auroc: the probability that a known image has the higher score.
        fpr: how many unknown images are taken for known where RECALL of the known ones are.
    """

    auroc: float
    fpr: float


def measure_scores(known: Answers, unknown: Answers, least: float) -> dict[str, Any]:
    """How well every score separates unknown from known images, and the share rejected by the default one."""
    found = {name: separation(score(known), score(unknown))._asdict() for name, score in SCORES.items()}
    return {"scores": found, "rejected": float((SCORES[DEFAULT](unknown) < least).mean())}


def cut_off(known: Float[np.ndarray, "b"]) -> float:
    """The score that a share RECALL of known images reaches."""
    return float(np.quantile(known, 1 - RECALL, method="lower")) if len(known) else -np.inf


def separation(known: Float[np.ndarray, "b"], unknown: Float[np.ndarray, "u"]) -> Rejection:
    """How well scores separate images of known classes from others."""
    ranks = scipy.stats.rankdata(np.concatenate([known, unknown]))
    wins = ranks[: len(known)].sum() - len(known) * (len(known) + 1) / 2
    return Rejection(float(wins / len(known) / len(unknown)), float((unknown >= cut_off(known)).mean()))
