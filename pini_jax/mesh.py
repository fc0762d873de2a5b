"""Where arrays live: one mesh over all devices, `data` by `model`.

Batches are split along `data`. Along `model` the matrices of the towers may be split (`clip.sharding`); everything
else is on every device.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pini_jax.errors import InputError


def make(model_shards: int = 1) -> Mesh:
    """All devices, `model_shards` of which share one copy of the towers.

    Raises:
        InputError: the devices cannot be grouped so.
    """
    devices = jax.device_count()
    if devices % model_shards:
        raise InputError(f"model_shards={model_shards} does not divide the number of devices, {devices}")
    shape = devices // model_shards, model_shards
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a copy of every array on every device."""
    return jax.device_put(tree, replicated(mesh))


def shard(mesh: Mesh, tree: Any) -> Any:
    """Splits every array along its first axis."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"]


def check_divisible(mesh: Mesh, batch_size: int) -> None:
    """Raises InputError unless a batch splits evenly over the devices."""
    if batch_size % (shards := batch_shards(mesh)):
        groups = "devices" if shards == mesh.size else f"groups of {mesh.shape['model']} devices"
        raise InputError(f"batch_size={batch_size} is not divisible by the {shards} {groups}")
