"""Noise is a value: a Gaussian, how numbers are taken from it, and how far it is from another.

The first axis of every Gaussian and of every sample is that of draws. It is 1 before the first draw; what is added
to something that has been drawn n times is drawn once for each of them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.core.products import matmul


class Gaussian(NamedTuple):
    """N(mean, (diag(scale) factor)^T (diag(scale) factor)); the sign of `scale` does not matter.

    Attributes:
        factor: directions [m e] that all of it shares; None where the Gaussian is diagonal.
        start: the mean before anything was learned; None is 0.
        unit: what mean, scale and start are multiples of, where a divergence is measured; None is 1.
    """

    mean: Float[Array, "n *shape e"]
    scale: Float[Array, "n *shape m"]
    factor: Float[Array, "m e"] | None = None
    start: Float[Array, "n *shape e"] | None = None
    unit: Float[Array, "n *shape 1"] | None = None


def displace(gaussian: Gaussian, normals: Float[Array, "*n m"]) -> Float[Array, "*k e"]:
    """mean + (scale z) factor: the reparameterisation, given the standard normals z."""
    noise = gaussian.scale * normals
    if gaussian.factor is not None:
        noise = matmul(noise, gaussian.factor)
    return gaussian.mean + noise


def sample(key: Array, gaussian: Gaussian, num: int) -> Float[Array, "_ *shape e"]:
    """mean + (scale z) factor with z ~ N(0, I), `num` times: the only place where noise is drawn."""
    shape = gaussian.scale.shape
    return displace(gaussian, jax.random.normal(key, (num * shape[0], *shape[1:]), gaussian.scale.dtype))


def divergence(gaussian: Gaussian, prior_scale: float) -> Float[Array, "n *shape"]:
    """KL(N(mean, diag(scale^2)) || N(start, s^2 I)), with m = mean - start:

        sum_i (m_i^2 + scale_i^2) / 2s^2 - log(|scale_i| / s) - 1/2

    In nats, summed over the last axis. A coordinate that does not vary has no density, and counts its mean alone.
    Of noise with a factor the scales along its directions count.
    """
    moved = gaussian.mean if gaussian.start is None else gaussian.mean - gaussian.start
    unit = prior_scale if gaussian.unit is None else prior_scale * gaussian.unit
    mean, scale = moved / unit, jnp.abs(gaussian.scale) / unit
    varies = scale > 0
    safe = jnp.where(varies, scale, 1.0)
    scale_part = jnp.where(varies, (safe**2 - 1) / 2 - jnp.log(safe), 0.0)
    return (mean**2 / 2).sum(-1) + scale_part.sum(-1)
