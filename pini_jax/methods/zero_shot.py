"""Zero-shot CLIP: nothing is learned."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array

from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Text, Traits, Variables


@dataclasses.dataclass(frozen=True)
class ZeroShot(Method):
    """p(c | x) = softmax_c(exp(s) cos(V(x), T(prompt_c))).

    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020.
    """

    traits = Traits(is_fitted=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Nothing is learned: empty variables."""
        return Variables({})
