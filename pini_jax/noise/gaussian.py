"""Noise is a value: a diagonal Gaussian, and the four ways to take numbers from it.

A `Draw` says what is added at a site: draw(site, gaussian) -> samples [n, *shape]. Training draws fresh numbers,
prediction draws per image or takes the mean, and a test replays recorded ones, all through the same forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from pini_jax import rng


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


def draw_per_image(key: Array, ids: Int[Array, "b"]) -> Draw:
    """One sample per image, from a stream of its own for every image id, so that batching changes nothing.

    For Gaussians of shape [k, b, ...].
    """

    def draw(site: str, gaussian: Gaussian) -> Float[Array, "1 k b *shape"]:
        one = jax.vmap(lambda i, g: sample(rng.stream(key, site, i), g, 1), in_axes=(0, 1), out_axes=2)
        return one(ids, gaussian)

    return draw


def draw_replay(normals: Mapping[str, Float[Array, "n *shape"]]) -> Draw:
    """The given standard normals, by site."""
    return lambda site, gaussian: displace(gaussian, normals[site])
