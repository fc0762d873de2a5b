"""The compiled training step: for one run, or for several side by side in lanes over one frozen CLIP."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pini_jax.core import mesh as meshes
from pini_jax.methods.method import Batch, Method, Text
from pini_jax.methods.objective import Parts
from pini_jax.train.step import Constants, TrainState, train_step

MEMORY = Path("/proc/meminfo")  # of Linux
# What of the memory at hand a step may fill.
SHARE = 0.5
TRIALS = 3
# A CPU's allocator returns what is larger to the system, and new pages take as long as computing a layer again.
CPU_ROOM = 2**25
LONG = 1.0  # seconds: a step that fills any device by itself


class Lanes(NamedTuple):
    """The states of runs that train side by side, with their constants: every array has a first axis of lanes."""

    states: TrainState
    constants: Constants


class Frozen(NamedTuple):
    """What a step reads and never changes: the same for all lanes."""

    mesh: jax.sharding.Mesh
    method: Method
    num_samples: int
    remat: str
    theta: dict
    text: Text


class Step(NamedTuple):
    """(lanes, batches) -> (lanes, parts of the objective); the lanes passed in are used up.

    Attributes:
        temporary_bytes: of what is computed on the way, on one device.
    """

    frozen: Frozen
    compiled: Callable
    temporary_bytes: int

    def __call__(self, lanes: Lanes, batch: Batch) -> tuple[Lanes, Parts]:
        return self.compiled(lanes, self.frozen.theta, self.frozen.text, batch)


def stack(mesh: jax.sharding.Mesh, lanes: Sequence[tuple[TrainState, Constants]]) -> Lanes:
    """Runs side by side, on every device."""
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *lanes)
    return meshes.replicate(mesh, Lanes(*stacked))


def stack_batches(mesh: jax.sharding.Mesh, batches: Sequence[Batch], size: int) -> Batch:
    """The lanes' batches, filled up to one size, and split over the devices."""

    def fill(x: np.ndarray) -> np.ndarray:
        # Not with zeros, whose norm is none; their weight is 0.
        return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1), mode="edge")

    filled = [
        Batch(fill(images), fill(labels), np.pad(weights, (0, size - len(weights))))
        for images, labels, weights in batches
    ]
    return meshes.shard(mesh, jax.tree.map(lambda *leaves: np.stack(leaves), *filled), axis=1)


def width(lanes: Lanes) -> int:
    """How many there are."""
    return lanes.states.step.shape[0]


@jax.jit
def take(lanes: Lanes, index: int) -> TrainState:
    """The state of the run in the lane of this number."""
    return jax.tree.map(lambda x: x[index], lanes.states)


@jax.jit
def replace(lanes: Lanes, index: int, new: Lanes) -> Lanes:
    """Another run in the lane of this number; `new` has one lane."""
    return jax.tree.map(lambda old, x: old.at[index].set(x[0]), lanes, new)


def compile_step(frozen: Frozen, lanes: Lanes, batch: Batch) -> Step:
    """The step of these lanes, compiled ahead.

    Layers are kept for the way back where that fits the memory at hand, and else computed again.
    """
    remat = frozen.remat == "always"
    if frozen.remat == "auto":
        images = frozen.num_samples * batch.labels.shape[-1]
        remat = width(lanes) * kept_bytes(frozen.method, frozen.text, images) > _room()
    method = dataclasses.replace(
        frozen.method,
        text_tower=_with_remat(frozen.method.text_tower, remat),
        image_tower=_with_remat(frozen.method.image_tower, remat),
    )

    def one(lane: Lanes, theta: dict, text: Text, batch: Batch) -> tuple[Lanes, Parts]:
        state, parts = train_step(method, frozen.num_samples, lane.states, theta, text, batch, lane.constants)
        return Lanes(state, lane.constants), parts

    def step(lanes: Lanes, theta: dict, text: Text, batch: Batch) -> tuple[Lanes, Parts]:
        if len(batch.labels) > 1:
            return jax.vmap(one, in_axes=(0, None, None, 0))(lanes, theta, text, batch)
        # A run alone has no lanes to compute over.
        lane, first = jax.tree.map(lambda x: x[0], (lanes, batch))
        return jax.tree.map(lambda x: x[None], one(lane, theta, text, first))

    # Left to itself the compiler may split the new states as it likes, and the next call wants them as they were.
    jitted = jax.jit(step, donate_argnums=0, out_shardings=meshes.replicated(frozen.mesh))
    compiled = jitted.lower(lanes, frozen.theta, frozen.text, batch).compile()
    memory = compiled.memory_analysis()
    return Step(frozen, compiled, memory.temp_size_in_bytes if memory else 0)


def _with_remat(tower: Any, remat: bool) -> Any:
    """The tower that computes its layers again, if it is one of equal layers."""
    return tower.clone(remat=remat) if hasattr(tower, "remat") else tower


def kept_bytes(method: Method, text: Text, images: int) -> int:
    """About what the way back needs, on all devices: per token and layer 9 widths, and 4 of the MLP.

    Args:
        images: in a step, every draw counted.
    """
    total = 0
    if (prompts := text.prompts) is not None:
        tokens = prompts.suffix.size + len(prompts.start) + len(prompts.prefix)
        total += tokens * _bytes_of_token(method.text_tower)
    if "pixels" in method.needs and hasattr(method.image_tower, "remat"):
        total += images * (method.image_tower.sizes.num_patches + 1) * _bytes_of_token(method.image_tower)
    return total


def _bytes_of_token(tower: Any) -> int:
    sizes = tower.sizes.transformer
    return sizes.layers * (9 * sizes.width + 4 * sizes.mlp_width) * jnp.dtype(tower.dtype).itemsize


def _room() -> float:
    """Bytes beyond which layers are computed again."""
    if jax.default_backend() == "cpu":
        return CPU_ROOM
    return SHARE * memory_at_hand() * jax.device_count()


def fits(step: Step, times: int) -> bool:
    """Whether the memory at hand holds what so many of these steps compute on the way."""
    return times * step.temporary_bytes <= SHARE * memory_at_hand()


def memory_at_hand() -> float:
    """Bytes that the first device, or the host where it computes itself, has free."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return meshes.agree(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    available = re.findall(r"MemAvailable:\s*(\d+) kB", MEMORY.read_text()) if MEMORY.exists() else []
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return meshes.agree(1024 * int(available[0]) if available else whole)


def seconds(step: Step, lanes: Lanes, batch: Batch) -> float:
    """Of one call: the least of a few, and of one alone where it is long; the lanes are kept."""
    taken: list[float] = []
    while len(taken) <= TRIALS and sum(taken) < LONG:
        copy = jax.block_until_ready(jax.tree.map(jnp.copy, lanes))
        start = time.perf_counter()
        jax.block_until_ready(step(copy, batch))
        taken.append(meshes.agree(time.perf_counter() - start))
    return min(taken)
