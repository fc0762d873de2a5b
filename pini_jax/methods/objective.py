"""The variational loss: logits -> a scalar to minimise, and its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pini_jax.core.options import at_least, below_one, one_of, positive
from pini_jax.core.shapes import Numbers

BOUNDS: Mapping[str, Callable[[Float[Array, "k b c"]], Float[Array, "b c"]]] = {
    "elbo": lambda log_q: log_q.mean(0),
    "multi_sample": lambda log_q: jax.nn.logsumexp(log_q, axis=0) - jnp.log(len(log_q)),
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss and its settings; the defaults are the paper's.

    Attributes:
        bound: `elbo`, the mean of log-likelihoods over draws; or `multi_sample`, the log of the mean likelihood,
            which is tighter (Burda et al. 2016, https://arxiv.org/abs/1509.00519).
        kl_weight: of KL(noise || N(0, kl_scale^2 I)), in nats summed over coordinates, a mean over images and
            classes; structured noise is pulled to where it started instead of 0. Noise with a `level`, and
            structured noise, is measured in its own units.
        kl_scale: s, standard deviation of that prior.
        label_smoothing: probability that is spread over all classes.
        temperature: what logits are divided by in training, not in prediction.
    """

    bound: str = one_of(BOUNDS, "elbo")
    kl_weight: float = at_least(0, 0.0)
    kl_scale: float = positive(1.0)
    label_smoothing: float = below_one(0.0)
    temperature: float = positive(1.0)


class Parts(NamedTuple):
    """Means over a batch: `loss` in nats, `accuracy` in [0, 1]."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def objective(
    logits: Float[Array, "*k b c"],
    labels: Int[Numbers, "b"],
    weights: Float[Numbers, "b"],
    settings: Objective = Objective(),
    penalty: Array | float = 0.0,
) -> Parts:
    """penalty - sum_b w_b sum_c t_bc log q_bc / sum_b w_b, with targets t = (1 - a) one_hot(y) + a / c.

    Logits are divided by the temperature before the softmax.

    `elbo`: log q = mean_k log softmax(logits_k), the Monte-Carlo estimate of the upper bound on H(T|E) that the
    method minimises (paper, Section "Positive-incentive Noise": the variational bound).
    `multi_sample`: log q = log mean_k softmax(logits_k).

    Args:
        weights: 1 for an image that counts, 0 for padding.
    """
    num_classes = logits.shape[-1]
    log_q = jax.nn.log_softmax(logits / settings.temperature).reshape(-1, *logits.shape[-2:])
    log_q = BOUNDS[settings.bound](log_q)
    targets = jax.nn.one_hot(labels, num_classes)
    targets = (1 - settings.label_smoothing) * targets + settings.label_smoothing / num_classes

    def mean(x: Float[Array, "*k b"]) -> Float[Array, ""]:
        return (x * weights).sum(-1).mean() / weights.sum()

    correct = (logits.argmax(-1) == jnp.asarray(labels)).astype(jnp.float32)
    return Parts(loss=penalty - mean((targets * log_q).sum(-1)), accuracy=mean(correct))
