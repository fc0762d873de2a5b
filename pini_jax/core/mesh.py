"""Where arrays live: one mesh over all devices of all processes, `data` by `model`.

Images and the classes' prompts are split along `data`. Along `model` the matrices of the towers may be split
(`clip.checkpoints.sharding`); everything else is on every device. With several processes, each holds everything
that is to be placed, and places its own part.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pini_jax.core.errors import InputError


def make_mesh(model_shards: int = 1) -> Mesh:
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
    return jax.tree.map(lambda x: put(x, replicated(mesh)), tree)


def shard(mesh: Mesh, tree: Any, axis: int = 0) -> Any:
    """Splits every array along an axis."""
    split = NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
    return jax.tree.map(lambda x: put(x, split), tree)


def put(x: Any, sharding: NamedSharding | None) -> jax.Array:
    """Puts an array where it belongs; None is JAX's default device."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])


def fetch(x: jax.Array) -> np.ndarray:
    """The whole of an array, in every process."""
    whole = x.is_fully_addressable or x.is_fully_replicated
    return np.asarray(x if whole else multihost_utils.process_allgather(x, tiled=True))


def broadcast_from_first(x: float) -> float:
    """The first process's number in all processes, where they must do the same."""
    return x if jax.process_count() == 1 else float(multihost_utils.broadcast_one_to_all(np.float32(x)))


def all_processes(flags: list[bool]) -> list[bool]:
    """Which of the flags are true in all processes."""
    if jax.process_count() == 1 or not flags:
        return flags
    return multihost_utils.process_allgather(np.array(flags)).all(axis=0).tolist()


def processes_that_differ(text: str) -> list[int]:
    """The processes whose text differs from the first one's."""
    if jax.process_count() == 1:
        return []
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    return np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()


def batch_shards(mesh: Mesh) -> int:
    """The number of parts into which a batch is split."""
    return mesh.shape["data"]


def check_divisible(mesh: Mesh, batch_size: int) -> None:
    """Raises InputError unless a batch splits evenly over the devices."""
    if batch_size % (shards := batch_shards(mesh)):
        groups = "devices" if shards == mesh.size else f"groups of {mesh.shape['model']} devices"
        raise InputError(f"batch_size={batch_size} is not divisible by the {shards} {groups}")
