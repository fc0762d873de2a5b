"""The few labelled images of a run, as features: what a method may start from."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pini_jax.clip.zero_shot import HIGHEST, normalise
from pini_jax.core.shapes import Numbers


class Support(NamedTuple):
    """Features of m labelled images in v views, un-normalised."""

    features: Float[Numbers, "v m e"]
    labels: Int[Numbers, "m"]

    def rows(self) -> tuple[Float[Array, "i e"], Int[Array, "i"]]:
        """Every view of every image, of unit length, with its label."""
        views, _, width = self.features.shape
        return normalise(jnp.asarray(self.features)).reshape(-1, width), jnp.tile(self.labels, views)

    def class_means(self, values: Float[Array, "i d"], num_classes: int) -> Float[Array, "c d"]:
        """Means over each class of something that every row has; 0 for a class without one."""
        one_hot = jax.nn.one_hot(self.rows()[1], num_classes)
        sums = jnp.matmul(one_hot.T, values, precision=HIGHEST)
        return sums / jnp.maximum(one_hot.sum(0), 1)[:, None]


NO_SUPPORT = Support(np.zeros((1, 0, 0), np.float32), np.zeros(0, np.int32))
