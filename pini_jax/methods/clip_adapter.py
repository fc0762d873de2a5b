"""CLIP-Adapter: a small residual network on the image features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.errors import InputError
from pini_jax.core.options import at_least, positive
from pini_jax.core.products import matmul
from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean


@dataclasses.dataclass(frozen=True)
class ClipAdapter(Method):
    """f <- ratio relu(relu(f D) U) + (1 - ratio) f, with D: e -> e / reduction and U back, without biases.

    Starts as PyTorch's Linear. Of degree one in f, so that f is taken at unit length.

    Source: Gao et al. 2021, CLIP-Adapter: Better Vision-Language Models with Feature Adapters,
    https://arxiv.org/abs/2110.04544: ratio by dataset, 0.2 in its code, whose trainer is CoOp's: SGD, learning
    rate 2e-3, batches of 32, 200 epochs.

    Attributes:
        ratio: weight of the adapted features.
        reduction: by how much the hidden layer is narrower than f.
    """

    ratio: float = positive(0.2)
    reduction: int = at_least(1, 4)

    paper: ClassVar[Mapping[str, Any]] = {"optim.lr": 2e-3, "optim.epochs": 200}
    search: ClassVar[Search] = {
        "options.ratio": (0.2, 0.4, 0.6, 0.8),
        "optim.lr": (2e-3, 2e-2),
    }

    traits = Traits(moves_images=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Draws D and U.

        Raises:
            InputError: the reduction leaves no channel.
        """
        width = text.features.shape[-1]
        if not (narrow := width // self.reduction):
            raise InputError(f"options.reduction={self.reduction} leaves nothing of {width} channels")
        shapes = {"down": (width, narrow), "up": (narrow, width)}
        keys = dict(zip(shapes, jax.random.split(key), strict=True))
        return Variables(
            {
                name: jax.random.uniform(keys[name], shape, minval=-1.0) * shape[0] ** -0.5
                for name, shape in shapes.items()
            }
        )

    def image_features(
        self,
        variables: Variables,
        text: Float[Array, "k c e"],
        features: Float[Array, "n _ b e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "_ _ b e"]:
        """The adapted image features."""
        features = normalise(features)
        hidden = jax.nn.relu(matmul(features, variables.phi["down"]))
        return self.ratio * jax.nn.relu(matmul(hidden, variables.phi["up"])) + (1 - self.ratio) * features
