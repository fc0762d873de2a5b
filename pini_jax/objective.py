"""The variational loss: logits -> a scalar to minimise, and its parts."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Objective(NamedTuple):
    """Means over a batch: `loss` in nats, `accuracy` in [0, 1]."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def objective(logits: Float[Array, "*k b c"], labels: Int[Array, "b"], weights: Float[Array, "b"]) -> Objective:
    """-E_{x, y, eps}[log q(y | x, eps)] <- -sum_kb w_b log softmax(logits_kb)_y / (k sum_b w_b).

    The Monte-Carlo estimate of the upper bound on H(T|E) that the method minimises (paper, Section "Positive-
    incentive Noise": the variational bound).

    Args:
        weights: 1 for an image that counts, 0 for padding.
    """
    log_likelihood = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(
        log_likelihood, jnp.broadcast_to(labels[:, None], (*logits.shape[:-1], 1)), axis=-1
    )[..., 0]
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)

    def mean(x: Array) -> Array:
        return (x * weights).sum(-1).mean() / weights.sum()

    return Objective(loss=-mean(of_label), accuracy=mean(correct))
