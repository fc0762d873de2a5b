"""TaskRes: a free residual of every class embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.options import positive
from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean


@dataclasses.dataclass(frozen=True)
class TaskRes(Method):
    """t <- norm t / |t| + alpha x, with x = 0 at the start.

    Source: Yu et al. 2023, Task Residual for Tuning Vision-Language Models, https://arxiv.org/abs/2211.10277:
    Adam, learning rate 2e-3, weight decay 5e-4, batches of 256, 200 epochs (100 up to four shots).

    Attributes:
        alpha: scale of the residual.
        norm: length of t, about that of CLIP's own text features, since steps are not free of scale.
    """

    alpha: float = positive(0.5)
    norm: float = positive(9.0)

    paper: ClassVar[Mapping[str, Any]] = {
        "optim.name": "adam",
        "optim.lr": 2e-3,
        "optim.epochs": 200,
        "batch_size": 256,
    }
    search: ClassVar[Search] = {
        "options.alpha": (0.25, 0.5, 1.0, 2.0),
        "optim.lr": (2e-3, 4e-3),
    }

    traits = Traits(is_per_class=True)  # a residual each

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Starts with no residual: x = 0."""
        return Variables({"residual": jnp.zeros(text.features.shape[1:])})

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "_ c e"]:
        """The text features with the residual added."""
        return self.norm * normalise(text) + self.alpha * variables.phi["residual"]
