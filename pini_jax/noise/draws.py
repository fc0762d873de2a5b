"""What is added at a site, given its Gaussian: draw(site, gaussian) -> samples.

Training draws fresh numbers, prediction draws per image or takes the mean, and a test replays recorded ones, all
through the same forward pass. Those of prediction are pytrees: a compiled stage takes one as an argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float, Int, Key

from pini_jax.core import rng
from pini_jax.core.shapes import Numbers
from pini_jax.noise.gaussian import Gaussian, displace, sample
from pini_jax.noise.sites import SITES

Draw = Callable[[str, Gaussian], Float[Array, "n *shape e"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """No draw: the mean itself."""

    def __call__(self, site: str, gaussian: Gaussian) -> Float[Array, "n *shape e"]:
        return gaussian.mean

    def split(self, num: int) -> Mean:
        """The same mean for each of several draws."""
        return self


draw_mean = Mean()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fresh:
    """Draws num[site] samples, from a stream of its own for every site; one if `num` does not name the site."""

    key: Key[Array, ""]
    num: FrozenDict[str, int] = dataclasses.field(default=FrozenDict(), metadata={"static": True})

    def __call__(self, site: str, gaussian: Gaussian) -> Float[Array, "n *shape e"]:
        return sample(rng.stream(self.key, site), gaussian, self.num.get(site, 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerImage:
    """Draws samples per image, from a stream of its own for every image id, so that batching changes nothing.

    For Gaussians of shape [n k b ...]: n = 1 becomes num[site].
    """

    key: Key[Array, "*k"]
    ids: Int[Numbers, "*k b"]
    num: FrozenDict[str, int] = dataclasses.field(default=FrozenDict(), metadata={"static": True})

    def __call__(self, site: str, gaussian: Gaussian) -> Float[Array, "n k b *shape"]:
        times = self.num.get(site, 1) if len(gaussian.mean) == 1 else 1

        def sample_image(i: Array, mean: Array, scale: Array) -> Array:
            return sample(rng.stream(self.key, site, i), Gaussian(mean, scale, gaussian.factor), times)

        return jax.vmap(sample_image, in_axes=(0, 2, 2), out_axes=2)(
            jnp.asarray(self.ids), gaussian.mean, gaussian.scale
        )

    def split(self, num: int) -> PerImage:
        """This draw with separate keys for several draws, along a first axis of all arrays."""
        keys = jax.vmap(lambda i: jax.random.fold_in(self.key, i))(jnp.arange(num))
        return PerImage(keys, jnp.broadcast_to(self.ids, (num, *self.ids.shape)), self.num)


def draw_fresh(key: Array, num: Mapping[str, int]) -> Fresh:
    """A draw of samples that all images share."""
    return Fresh(key, FrozenDict(num))


def draw_per_image(key: Array, ids: Int[Numbers, "b"], num: Mapping[str, int] | None = None) -> PerImage:
    """A draw of samples of each image's own."""
    return PerImage(key, ids, FrozenDict(num or {}))


def draw_batch(key: Array, size: int, num: Mapping[str, int]) -> Draw:
    """A training step's noise: samples that all images share, and separate ones for every place in the batch.

    Places have streams of their own, so that filling up a batch (to what the devices divide) changes nothing.
    """
    shared, per_image = draw_fresh(key, num), draw_per_image(key, jnp.arange(size), num)
    return lambda site, gaussian: (shared if SITES[site].side == "text" else per_image)(site, gaussian)


def draw_replay(normals: Mapping[str, Float[Array, "n *shape m"]]) -> Draw:
    """Replays the given standard normals, by site."""
    return lambda site, gaussian: displace(gaussian, normals[site])
