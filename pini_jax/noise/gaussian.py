"""Noise is a value: a diagonal Gaussian, and the ways to take numbers from it.

A `Draw` says what is added at a site: draw(site, gaussian) -> samples [n, *shape]. Training draws fresh numbers,
prediction draws per image or takes the mean, and a test replays recorded ones, all through the same forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pini_jax import rng

SHARED_SITES = ("prompt_tokens",)  # whose noise is the same for all classes and images


class Gaussian(NamedTuple):
    """N(mean, diag(scale^2)); the sign of `scale` does not matter."""

    mean: Float[Array, "*shape"]
    scale: Float[Array, "*shape"]


Draw = Callable[[str, Gaussian], Float[Array, "n *shape"]]


def displace(gaussian: Gaussian, normals: Float[Array, "n *shape"]) -> Float[Array, "n *shape"]:
    """mean + scale z: the reparameterisation, given the standard normals z."""
    return gaussian.mean + gaussian.scale * normals


def sample(key: Array, gaussian: Gaussian, num: int) -> Float[Array, "n *shape"]:
    """mean + scale z with z ~ N(0, I), `num` times: the only place where normals are drawn."""
    return displace(gaussian, jax.random.normal(key, (num, *gaussian.mean.shape), gaussian.mean.dtype))


def draw_mean(site: str, gaussian: Gaussian) -> Float[Array, "1 *shape"]:
    """No draw: the mean itself."""
    return gaussian.mean[None]


def draw_fresh(key: Array, num: Mapping[str, int]) -> Draw:
    """num[site] samples, from a stream of its own for every site; 1 where `num` does not name the site."""
    return lambda site, gaussian: sample(rng.stream(key, site), gaussian, num.get(site, 1))


def draw_per_image(key: Array, ids: Int[Array, "b"], num: int = 1) -> Draw:
    """`num` samples per image, from a stream of its own for every image id, so that batching changes nothing.

    For Gaussians of shape [k, b, ...].
    """

    def draw(site: str, gaussian: Gaussian) -> Float[Array, "n k b *shape"]:
        one = jax.vmap(lambda i, g: sample(rng.stream(key, site, i), g, num), in_axes=(0, 1), out_axes=2)
        return one(ids, gaussian)

    return draw


def draw_batch(key: Array, size: int, num: int) -> Draw:
    """A training step's noise: one sample that all classes share, and `num` for every place in the batch.

    Places have streams of their own, so that filling up a batch (to what the devices divide) changes nothing.
    """
    shared, per_image = draw_fresh(key, {}), draw_per_image(key, jnp.arange(size), num)
    return lambda site, gaussian: (shared if site in SHARED_SITES else per_image)(site, gaussian)


def draw_replay(normals: Mapping[str, Float[Array, "n *shape"]]) -> Draw:
    """The given standard normals, by site."""
    return lambda site, gaussian: displace(gaussian, normals[site])
