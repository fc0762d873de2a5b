"""Tip-Adapter: the labelled images as a cache beside zero-shot CLIP."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.options import positive
from pini_jax.core.products import matmul
from pini_jax.core.shapes import Numbers, Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean


def affinity(f: Float[Array, "*b e"], keys: Float[Numbers, "m e"], beta: float) -> Float[Array, "*b m"]:
    """exp(-beta (1 - f . k)) of unit features and every key: 1 where they are alike."""
    return jnp.exp(-beta * (1 - matmul(f, keys.T)))


@dataclasses.dataclass(frozen=True)
class TipAdapter(Method):
    """logits = exp(s) cos(f, t) + alpha exp(-beta (1 - f F^T)) Y, with keys F and one-hot labels Y.

    A key is the mean of an image's views, of unit length, as f is. Nothing is trained.

    Source: Zhang et al. 2022, Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification,
    https://arxiv.org/abs/2207.09519: alpha 1, beta 5.5, then both searched on validation images.

    Attributes:
        alpha: weight of the cache.
        beta: how sharply a key stands out.
    """

    alpha: float = positive(1.0)
    beta: float = positive(5.5)

    search: ClassVar[Search] = {
        "options.alpha": (3.0, 12.0),
        "options.beta": (1.0, 3.0, 6.0, 12.0),
    }

    # Y has the classes of the selection; the cache is no cosine with a class embedding.
    traits = Traits(
        starts_from_support=True, keeps_support=True, is_fitted=True, is_per_class=True, moves_images=True
    )

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Fills the cache."""
        keys = normalise(normalise(jnp.asarray(support.features)).mean(0))
        return Variables({}, {"keys": keys, "values": jax.nn.one_hot(support.labels, text.features.shape[1])})

    def logits(
        self,
        variables: Variables,
        theta: Parameters,
        images: Float[Array, "n _ b e"],
        text: Float[Array, "_ c e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n _ b c"]:
        """The sum of zero-shot CLIP's logits and the cache's."""
        keys = {**variables.buffers, **variables.phi}["keys"]
        cached = matmul(affinity(normalise(images), keys, self.beta), variables.buffers["values"])
        return super().logits(variables, theta, images, text, draw) + self.alpha * cached


@dataclasses.dataclass(frozen=True)
class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are trained, and not normalised again.

    Source: Zhang et al. 2022, https://arxiv.org/abs/2207.09519: AdamW, learning rate 1e-3 by a cosine of steps, 20
    epochs, batches of 256. Its code chooses the best epoch on test images, and searches alpha and beta once more
    after the training; here the last epoch counts, and every pair that is tried is trained with.

    Attributes:
        alpha, beta: as above.
    """

    paper: ClassVar[Mapping[str, Any]] = {
        "optim.name": "adamw",
        "optim.schedule": "cosine",
        "optim.lr": 1e-3,
        "optim.weight_decay": 1e-2,
        "optim.epsilon": 1e-4,
        "optim.epochs": 20,
        "batch_size": 256,
    }
    search: ClassVar[Search] = {
        "options.alpha": (2.0, 4.0, 8.0, 16.0),
        "options.beta": (1.0, 5.5),
    }

    traits = TipAdapter.traits._replace(is_fitted=False)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Keys start as the cache's."""
        cache = super().init(key, theta, text, support).buffers
        return Variables({"keys": cache["keys"]}, {"values": cache["values"]})
