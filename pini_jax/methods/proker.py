"""ProKeR: kernel ridge regression of what zero-shot CLIP leaves over."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.options import positive
from pini_jax.core.products import matmul
from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.methods.tip_adapter import affinity
from pini_jax.noise.draws import Draw, draw_mean


@dataclasses.dataclass(frozen=True)
class ProKeR(Method):
    """logits = exp(s) (f t + k(f, F) (K / ridge + I)^-1 (Y - F t)), with k(f, g) = exp(-beta (1 - f g)).

    F are the unit features of all labelled images in all views, K = k(F, F), Y their one-hot labels, t the unit
    texts. What is added to zero-shot CLIP, the proximal point, is `ridge` times the kernel ridge regression of
    Y - F t: nothing for a small `ridge`. Nothing is trained. The paper's logits are the bracket: exp(s) moves no
    decision.

    Source: Bendou et al. 2025, ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language
    Models, https://arxiv.org/abs/2501.11175, and its code: both numbers are searched on validation images, by
    dataset between 0.01 and 10 and between 0.001 and 10; the defaults are those of ImageNet with 16 shots.

    Attributes:
        beta: how sharply an image stands out.
        ridge: lambda there, the weight of the norm and of the regression.
    """

    beta: float = positive(1.7)
    ridge: float = positive(0.1)

    search: ClassVar[Search] = {
        "options.beta": (1.0, 3.0),
        "options.ridge": (0.03, 0.1, 0.3, 1.0),
    }

    # Y has the classes of the selection; the kernel is no cosine with a class embedding.
    traits = Traits(
        starts_from_support=True, keeps_support=True, is_fitted=True, is_per_class=True, moves_images=True
    )

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Solves for the weight of every labelled image in every class."""
        (f, labels), t = support.rows(), normalise(text.features[0])
        rest = jax.nn.one_hot(labels, len(t)) - matmul(f, t.T)
        regularised = affinity(f, f, self.beta) / self.ridge + jnp.eye(len(f))
        weights = jax.scipy.linalg.solve(regularised, rest, assume_a="pos")
        return Variables({"weights": weights}, {"keys": f})

    def logits(
        self,
        variables: Variables,
        theta: Parameters,
        images: Float[Array, "n _ b e"],
        text: Float[Array, "_ c e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n _ b c"]:
        """The sum of zero-shot CLIP's logits and the regression's."""
        kernel = affinity(normalise(images), variables.buffers["keys"], self.beta)
        regression = matmul(kernel, variables.phi["weights"])
        return super().logits(variables, theta, images, text, draw) + jnp.exp(theta["logit_scale"]) * regression
