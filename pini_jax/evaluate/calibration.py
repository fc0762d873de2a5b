"""One temperature, so that probabilities say how often a prediction holds."""

from __future__ import annotations

import numpy as np
import scipy  # which loads its parts at their first use: half a second
from jaxtyping import Float, Int
from scipy.special import log_softmax

SPREAD = 0.5  # of log T before an image is seen: few images move T little
BOUNDS = (-4.0, 6.0)  # of log T


def temperature(log_probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"]) -> float:
    """T of the lowest sum_i -log softmax(log p_i / T)_{y_i} + (log T)^2 / (2 SPREAD^2), over held-out images.

    1 where there is none. The likelihood is convex in 1 / T.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, Section 4.2; the prior is this project's.
    """
    if not len(labels):
        return 1.0
    wide, rows = log_probabilities.astype(np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        own = log_softmax(wide * np.exp(-log_temperature), axis=-1)[rows, labels]
        return float(-own.sum() + log_temperature**2 / (2 * SPREAD**2))

    found = scipy.optimize.minimize_scalar(loss, bounds=BOUNDS, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
