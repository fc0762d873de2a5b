"""CoOp: the tokens before the class name are learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.core.errors import InputError
from pini_jax.core.options import positive
from pini_jax.core.shapes import Parameters, present
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean


@dataclasses.dataclass(frozen=True)
class CoOp(Method):
    """prompt_c = [start, v_1 ... v_p, name_c, ., end], with p context vectors v that all classes share.

    The template says how many there are: as many as it has tokens before `{}`. The shared prefix runs once.

    Source: Zhou et al. 2022, Learning to Prompt for Vision-Language Models, https://arxiv.org/abs/2109.01134: 16
    vectors, the name last, SGD as in the paper's released configuration with twice its learning rate; 200 epochs
    (there 50 for one shot and 100 for two and four).

    Attributes:
        initial_scale: standard deviation of the context before the first step.
    """

    initial_scale: float = positive(0.02)

    paper: ClassVar[Mapping[str, Any]] = {"template": "x " * 16 + "{}.", "optim.lr": 2e-3, "optim.epochs": 200}
    search: ClassVar[Search] = {"optim.lr": (5e-4, 2e-3, 8e-3), "optim.epochs": (50, 200)}

    traits = Traits(encodes_prompts=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Draws the context.

        Raises:
            InputError: the template has no token for it.
        """
        prefix = present(text.prompts).prefix
        if not len(prefix):
            raise InputError("the template has nothing before {}, where the context of CoOp goes")
        shape = len(prefix), present(self.text_tower).sizes.transformer.width
        return Variables({"context": self.initial_scale * jax.random.normal(key, shape)})

    def prompt_tokens(
        self, variables: Variables, theta: Parameters, text: Text, draw: Draw = draw_mean
    ) -> tuple[Float[Array, "1 q d"], Float[Array, "r s d"]]:
        """The context, at its positions, in the place of the template's tokens."""
        prefix, suffix = super().prompt_tokens(variables, theta, text)
        start = len(present(text.prompts).start)
        context = variables.phi["context"] + theta["text"]["position"][start : prefix.shape[1]]
        return jnp.concatenate([prefix[:, :start], context[None].astype(prefix.dtype)], axis=1), suffix
