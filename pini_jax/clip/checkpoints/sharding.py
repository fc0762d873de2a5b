"""Where the parameters of the towers live on a mesh: one table of partition specs.

A block is split by its attention heads and by the channels of its MLP's hidden layer, so that devices exchange
nothing but its two residual sums (Shoeybi et al. 2019, Section 3, https://arxiv.org/abs/1909.08053). The table of
tokens is split by tokens: channels would split the residual stream with them, and every norm would be exchanged.
What no row names is small, or belongs to a residual image tower: it is on every device.
"""

from __future__ import annotations

import re

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pini_jax.clip.architecture import Architecture, Image
from pini_jax.core.errors import InputError

# (pattern of the whole path, how the axes of that parameter are split)
SPECS = (
    (r".*/blocks/qkv/kernel", PartitionSpec(None, None, None, "model", None)),  # [layers d 3 heads z]
    (r".*/blocks/qkv/bias", PartitionSpec(None, None, "model", None)),  # [layers 3 heads z]
    (r".*/blocks/out/kernel", PartitionSpec(None, "model", None, None)),  # [layers heads z d]
    (r".*/blocks/mlp_in/kernel", PartitionSpec(None, None, "model")),  # [layers d mlp]
    (r".*/blocks/mlp_in/bias", PartitionSpec(None, "model")),  # [layers mlp]
    (r".*/blocks/mlp_out/kernel", PartitionSpec(None, "model", None)),  # [layers mlp d]
    (r"text/token/embedding", PartitionSpec("model", None)),  # [tokens d]
)


def spec(mesh: Mesh, path: str, shape: tuple[int, ...]) -> PartitionSpec:
    """How the parameter of this slash-separated path is split; a vocabulary that does not divide stays whole."""
    axes = next((spec for pattern, spec in SPECS if re.fullmatch(pattern, path)), PartitionSpec())
    divides = all(size % mesh.shape[axis] == 0 for size, axis in zip(shape, axes, strict=False) if axis)
    return axes if divides else PartitionSpec()


def of(mesh: Mesh | None, path: str, shape: tuple[int, ...]) -> NamedSharding | None:
    """The sharding of a parameter; without a mesh, JAX's default device."""
    return None if mesh is None else NamedSharding(mesh, spec(mesh, path, shape))


def check_shards(mesh: Mesh | None, sizes: Architecture) -> None:
    """Raises InputError unless the towers can be split over the `model` axis."""
    shards = 1 if mesh is None else mesh.shape["model"]
    towers = {"text": sizes.text.transformer}
    if isinstance(sizes.image, Image):
        towers["image"] = sizes.image.transformer
    for tower, transformer in towers.items():
        for what, count in {"heads": transformer.heads, "MLP channels": transformer.mlp_width}.items():
            if count % shards:
                raise InputError(f"model_shards={shards} does not divide the {count} {what} of the {tower} tower")
