"""The few labelled images of a run, as features: what a method may start from."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.errors import InputError
from pini_jax.core.products import matmul
from pini_jax.core.shapes import Numbers


class Support(NamedTuple):
    """Features of m labelled images in v views, un-normalised.

    Attributes:
        val_features, val_labels: of the validation images, where a method sets itself by them.
        has_texts: whether the classes' texts are known, or else `stand_ins` of these images are taken for them.
    """

    features: Float[Numbers, "v m e"]
    labels: Int[Numbers, "m"]
    val_features: Float[Numbers, "n e"] = np.zeros((0, 0), np.float32)
    val_labels: Int[Numbers, "n"] = np.zeros(0, np.int32)
    has_texts: bool = True

    def rows(self) -> tuple[Float[Array, "i e"], Int[Array, "i"]]:
        """Every view of every image, of unit length, with its label."""
        views, _, width = self.features.shape
        return normalise(jnp.asarray(self.features)).reshape(-1, width), jnp.tile(self.labels, views)

    def class_means(self, values: Float[Array, "i d"], num_classes: int) -> Float[Array, "c d"]:
        """The mean of `values` (one per row) over each class; 0 for a class without rows."""
        one_hot = jax.nn.one_hot(self.rows()[1], num_classes)
        sums = matmul(one_hot.T, values)
        return sums / jnp.maximum(one_hot.sum(0), 1)[:, None]


def stand_ins(
    features: Float[np.ndarray, "m e"], labels: Int[np.ndarray, "m"], num_classes: int
) -> Float[np.ndarray, "c e"]:
    """Substitutes for unknown texts: the mean of each class's unit features, of unit length.

    Raises:
        InputError: the features of a class add up to nothing.
    """
    sums = np.zeros((num_classes, features.shape[1]), features.dtype)
    np.add.at(sums, labels, features)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    if not lengths.all():
        raise InputError(
            "features of a class cancel out, and no mean stands for its text: give those of the texts"
        )
    return sums / lengths


NO_SUPPORT = Support(np.zeros((1, 0, 0), np.float32), np.zeros(0, np.int32))
