"""Where arrays live: one mesh over all devices, batches split along `data`, everything else on every device."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pini_jax.errors import InputError


def make() -> Mesh:
    """All devices along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(mesh: Mesh, tree: Any) -> Any:
    """Splits every array along its first axis."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


def check_divisible(mesh: Mesh, batch_size: int) -> None:
    """Raises InputError unless a batch splits evenly over the devices."""
    if batch_size % mesh.size:
        raise InputError(f"batch_size={batch_size} is not divisible by the {mesh.size} devices")
