"""LP++: a linear probe blended with the text, by steps that the data size."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.options import at_least
from pini_jax.core.products import einsum, matmul
from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean

EVERY = 10  # steps of w for one of a
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class LpPlusPlus(Method):
    """logits_c = w_c f + b_c + a_c t_c f, of unit f and t; full-batch descent on the cross-entropy of m features.

    w starts as the sum of a class's features, a as 250 mean_i t_{y_i} f_i for every class. Steps: of w and b
    4 m / lambda_max(F^T F) with momentum 0.9; of a, at every tenth, m / (4 max_c sum_i (t_c f_i)^2) along the sum
    of all its gradients so far, which its code never clears.

    Source: Huang et al. 2024, LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP,
    https://arxiv.org/abs/2404.02285: 300 steps, of which the best on validation images counts.

    Attributes:
        steps: of w.
    """

    steps: int = at_least(1, 300)

    search: ClassVar[Search] = {"options.steps": (10, 20, 40, 80, 120, 180, 240, 300)}

    # A w and an a of every class; logits are no cosines.
    traits = Traits(starts_from_support=True, is_fitted=True, is_per_class=True, moves_images=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Takes all steps of descent."""
        (f, labels), t = support.rows(), normalise(text.features[0])
        m, classes = len(labels), len(t)
        one_hot = jax.nn.one_hot(labels, classes)
        similar = matmul(f, t.T)
        rate_w = 4 * m / jnp.linalg.eigvalsh(matmul(f.T, f))[-1]
        rate_a = m / (4 * jnp.square(similar).sum(0).max())

        def step(i: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            w, b, velocity_w, velocity_b, a, total = carry
            error = (jax.nn.softmax(matmul(f, w) + b + a * similar) - one_hot) / m
            velocity_w = MOMENTUM * velocity_w + matmul(f.T, error)
            velocity_b = MOMENTUM * velocity_b + error.sum(0)
            total = total + (error * similar).sum(0)
            a = jnp.where((i + 1) % EVERY == 0, a - rate_a * total, a)
            return w - rate_w * velocity_w, b - rate_w * velocity_b, velocity_w, velocity_b, a, total

        w, zero = matmul(f.T, one_hot), jnp.zeros(classes)
        a = zero + 250 * jnp.take_along_axis(similar, labels[:, None], axis=1).mean()
        w, b, _, _, a, _ = jax.lax.fori_loop(0, self.steps, step, (w, zero, jnp.zeros_like(w), zero, a, zero))
        return Variables({"kernel": w, "bias": b, "blend": a})

    def logits(
        self,
        variables: Variables,
        theta: Parameters,
        images: Float[Array, "n _ b e"],
        text: Float[Array, "_ c e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n _ b c"]:
        """w f + b + a t f."""
        f, phi = normalise(images), variables.phi
        similar = einsum("nkbe,kce->nkbc", f, normalise(text))
        return matmul(f, phi["kernel"]) + phi["bias"] + phi["blend"] * similar
