"""CLIP-LoRA: low-rank changes of the towers' attention matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.core.options import at_least, positive
from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.methods.transformers import TOWERS, check_transformers


@dataclasses.dataclass(frozen=True)
class ClipLora(Method):
    """W <- W + (alpha / sqrt(rank)) A B for the query, key and value matrices of every layer of both towers.

    A starts as PyTorch's Linear, U(-1/sqrt(d), 1/sqrt(d)), and B at zero. The change is made to the weights once a
    step, so the paper's dropout of A's inputs (0.25) is left out.

    Source: Zanella and Ben Ayed 2024, Low-Rank Few-Shot Adaptation of Vision-Language Models,
    https://arxiv.org/abs/2405.18541: AdamW, learning rate 2e-4, weight decay 0.01, batches of 32, 500 steps per
    shot.

    Attributes:
        rank: r, columns of A.
        alpha: scale of the change.
        steps_per_shot: where `optim.epochs` is 0.
    """

    rank: int = at_least(1, 2)
    alpha: float = positive(1.0)
    steps_per_shot: int = at_least(1, 500)

    paper: ClassVar[Mapping[str, Any]] = {
        "template": "coop",
        "optim.name": "adamw",
        "optim.schedule": "cosine",
        "optim.lr": 2e-4,
        "optim.weight_decay": 1e-2,
        "optim.epochs": 0,
    }
    search: ClassVar[Search] = {"optim.lr": (2e-4, 1e-3, 5e-3), "options.rank": (2, 8)}

    traits = Traits(reads="pixels", encodes_prompts=True, moves_images=True)  # both towers are others

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Draws A; B is zero.

        Raises:
            InputError: a tower is no transformer.
        """
        check_transformers(theta, "clip_lora changes attention matrices")
        phi = {}
        for tower, own in zip(TOWERS, jax.random.split(key), strict=True):
            layers, width, three, heads, channels = theta[tower]["blocks"]["qkv"]["kernel"].shape
            down = jax.random.uniform(own, (layers, three, width, self.rank), minval=-1.0) * width**-0.5
            phi[tower] = {"down": down, "up": jnp.zeros((layers, three, self.rank, heads, channels))}
        return Variables(phi)

    def adapt(self, variables: Variables, theta: Parameters) -> Mapping[str, Any]:
        """The towers with the changed matrices."""
        return {**theta, **{tower: self._changed(theta[tower], variables.phi[tower]) for tower in TOWERS}}

    def _changed(self, theta: Parameters, phi: Parameters) -> Mapping[str, Any]:
        def kernel(old: Float[Array, "l d 3 h z"]) -> Float[Array, "l d 3 h z"]:
            change = jnp.einsum("ltdr,ltrhz->ldthz", phi["down"], phi["up"])
            return old + (self.alpha * self.rank**-0.5 * change).astype(old.dtype)

        qkv = theta["blocks"]["qkv"]
        return {**theta, "blocks": {**theta["blocks"], "qkv": {**qkv, "kernel": kernel(qkv["kernel"])}}}
