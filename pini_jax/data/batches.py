"""Which images are in which batch: a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pini_jax.core import rng


class Indices(NamedTuple):
    """One batch, still without its content.

    Attributes:
        view: number of the augmented view.
        images: positions in the selection.
        weights: 1 for an image that counts, 0 for padding.
    """

    view: int
    images: Int[np.ndarray, "b"]
    weights: Float[np.ndarray, "b"]


@dataclasses.dataclass(frozen=True)
class Batches:
    """Epochs of shuffled batches; what does not fill a batch waits for another epoch's order.

    A selection smaller than a batch makes one padded batch per epoch.

    Attributes:
        views: how many views there are to go round; 0 for a fresh one every epoch.
    """

    num_images: int
    batch_size: int
    views: int
    seed: int

    @property
    def per_epoch(self) -> int:
        return max(1, self.num_images // self.batch_size)

    def at(self, step: int) -> Indices:
        """The batch of a step."""
        epoch, position = divmod(step, self.per_epoch)
        order = _order(self.num_images, self.seed, epoch)
        images = order[position * self.batch_size : (position + 1) * self.batch_size]
        filled: Int[np.ndarray, "b"] = np.zeros(self.batch_size, images.dtype)
        filled[: len(images)] = images
        return Indices(
            view=epoch % self.views if self.views else epoch,
            images=filled,
            weights=(np.arange(self.batch_size) < len(images)).astype(np.float32),
        )


@functools.lru_cache(maxsize=128)  # of as many runs as train side by side
def _order(num_images: int, seed: int, epoch: int) -> Int[np.ndarray, "n"]:
    return rng.host_stream(seed, "order", epoch).permutation(num_images)
