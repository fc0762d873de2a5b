"""CLIP-SVD: the singular values of the towers' weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.core.options import at_least
from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.methods.transformers import TOWERS, check_transformers

LAYERS = ("qkv", "out", "mlp_in", "mlp_out")


@dataclasses.dataclass(frozen=True)
class ClipSvd(Method):
    """W <- W + U diag(s - s_0) V^T, with W = U diag(s_0) V^T and s trained from s_0; all else stays.

    W are the matrices of query, key, value and output and both of the MLP, in every layer of both towers. U and V
    are computed once and kept beside s: checkpoints are about one and a half times as large as the layers.

    Source: Koleilat et al. 2025, Singular Value Few-shot Adaptation of Vision-Language Models,
    https://arxiv.org/abs/2509.03740, and its code: AdamW, weight decay 0.01, batches of 32, learning rate 5e-4 for
    all natural images and up to 0.01 by dataset for others, 200 steps per shot.

    Attributes:
        steps_per_shot: where `optim.epochs` is 0.
    """

    steps_per_shot: int = at_least(1, 200)

    paper: ClassVar[Mapping[str, Any]] = {
        "template": "coop",
        "optim.name": "adamw",
        "optim.schedule": "cosine",
        "optim.lr": 5e-4,
        "optim.weight_decay": 1e-2,
        "optim.epochs": 0,
    }
    search: ClassVar[Search] = {"optim.lr": (5e-4, 2e-3, 1e-2)}

    traits = Traits(reads="pixels", encodes_prompts=True, moves_images=True)  # both towers are others

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Decomposes the weights.

        Raises:
            InputError: a tower is no transformer.
        """
        check_transformers(theta, "clip_svd changes singular values of transformers")
        parts = {tower: _decomposed(theta[tower]["blocks"]) for tower in TOWERS}
        values = {tower: {name: x["values"] for name, x in of_tower.items()} for tower, of_tower in parts.items()}
        return Variables(values, parts)

    def adapt(self, variables: Variables, theta: Parameters) -> Mapping[str, Any]:
        """The towers with the changed matrices."""
        changed = {
            tower: _changed(theta[tower]["blocks"], variables.phi[tower], variables.buffers[tower])
            for tower in TOWERS
        }
        return {**theta, **{tower: {**theta[tower], "blocks": blocks} for tower, blocks in changed.items()}}


def _decomposed(blocks: Parameters) -> dict[str, dict[str, Array]]:
    """U, s and V^T of every matrix, by the layer's name."""
    parts = {name: jnp.linalg.svd(_matrices(name, blocks), full_matrices=False) for name in LAYERS}
    return {name: {"left": u, "values": s, "right": v} for name, (u, s, v) in parts.items()}


def _matrices(name: str, blocks: Parameters) -> Float[Array, "l *t i o"]:
    """A layer's matrices from i to o channels; query, key and value are three."""
    kernel = blocks[name]["kernel"].astype(jnp.float32)
    if name == "qkv":
        return jnp.moveaxis(kernel.reshape(*kernel.shape[:3], -1), 2, 1)
    return kernel.reshape(len(kernel), -1, kernel.shape[-1])


def _changed(blocks: Parameters, values: Parameters, parts: Parameters) -> dict[str, Any]:
    def kernel(name: str) -> Array:
        old, part = blocks[name]["kernel"], parts[name]
        change = (part["left"] * (values[name] - part["values"])[..., None, :]) @ part["right"]
        if name == "qkv":
            change = jnp.moveaxis(change, 1, 2)
        return old + change.reshape(old.shape).astype(old.dtype)

    return {**blocks, **{name: {**blocks[name], "kernel": kernel(name)} for name in LAYERS}}
