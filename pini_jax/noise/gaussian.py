"""Noise is a value: a Gaussian, and the ways to take numbers from it.

A `Draw` says what is added at a site: draw(site, gaussian) -> samples. Training draws fresh numbers, prediction
draws per image or takes the mean, and a test replays recorded ones, all through the same forward pass.

The first axis of every Gaussian and of every sample is that of draws. It is 1 before the first draw; what is added
to something that has been drawn n times is drawn once for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pini_jax.core import rng

SHARED_SITES = ("prompt_tokens", "text_features")  # whose noise is the same for all images


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


Draw = Callable[[str, Gaussian], Float[Array, "n *shape e"]]


def displace(gaussian: Gaussian, normals: Float[Array, "n *shape m"]) -> Float[Array, "n *shape e"]:
    """mean + (scale z) factor: the reparameterisation, given the standard normals z."""
    noise = gaussian.scale * normals
    if gaussian.factor is not None:
        noise = jnp.matmul(noise, gaussian.factor, precision=jax.lax.Precision.HIGHEST)
    return gaussian.mean + noise


def sample(key: Array, gaussian: Gaussian, num: int) -> Float[Array, "n *shape e"]:
    """mean + (scale z) factor with z ~ N(0, I), `num` times: the only place where normals are drawn."""
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
    of_scale = jnp.where(varies, (safe**2 - 1) / 2 - jnp.log(safe), 0.0)
    return (mean**2 / 2).sum(-1) + of_scale.sum(-1)


def draw_mean(site: str, gaussian: Gaussian) -> Float[Array, "n *shape e"]:
    """No draw: the mean itself."""
    return gaussian.mean


def draw_fresh(key: Array, num: Mapping[str, int]) -> Draw:
    """num[site] samples, from a stream of its own for every site; 1 where `num` does not name the site."""
    return lambda site, gaussian: sample(rng.stream(key, site), gaussian, num.get(site, 1))


def draw_per_image(key: Array, ids: Int[Array, "b"], num: Mapping[str, int] | None = None) -> Draw:
    """Samples per image, from a stream of its own for every image id, so that batching changes nothing.

    For Gaussians of shape [n, k, b, ...]: n = 1 becomes num[site].
    """

    def draw(site: str, gaussian: Gaussian) -> Float[Array, "n k b *shape"]:
        times = (num or {}).get(site, 1) if len(gaussian.mean) == 1 else 1

        def one(i: Array, mean: Array, scale: Array) -> Array:
            return sample(rng.stream(key, site, i), Gaussian(mean, scale, gaussian.factor), times)

        return jax.vmap(one, in_axes=(0, 2, 2), out_axes=2)(ids, gaussian.mean, gaussian.scale)

    return draw


def draw_batch(key: Array, size: int, num: Mapping[str, int]) -> Draw:
    """A training step's noise: samples that all images share, and others for every place in the batch.

    Places have streams of their own, so that filling up a batch (to what the devices divide) changes nothing.
    """
    shared, per_image = draw_fresh(key, num), draw_per_image(key, jnp.arange(size), num)
    return lambda site, gaussian: (shared if site in SHARED_SITES else per_image)(site, gaussian)


def draw_replay(normals: Mapping[str, Float[Array, "n *shape m"]]) -> Draw:
    """The given standard normals, by site."""
    return lambda site, gaussian: displace(gaussian, normals[site])
