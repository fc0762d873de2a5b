"""The compiled training steps: of one run, or of several side by side in lanes over one frozen CLIP."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from pini_jax.core import mesh as meshes
from pini_jax.core.shapes import Numbers, Parameters
from pini_jax.methods.method import Batch, Method, Text
from pini_jax.methods.objective import Parts
from pini_jax.train import memory
from pini_jax.train.step import Constants, TrainState, train_step


class Lanes(NamedTuple):
    """The states of runs that train side by side, with their constants: every array has a first axis of lanes."""

    states: TrainState
    constants: Constants


class Fixed(NamedTuple):
    """What a step reads and never changes: the same for all lanes."""

    mesh: jax.sharding.Mesh
    method: Method
    num_samples: int
    remat: str
    theta: Parameters
    text: Text


class BatchTable(NamedTuple):
    """The batches of a call's steps.

    Attributes:
        batch: of every step and lane, [t l b].
        steps: how many are taken; the batches of the others are nothing.
    """

    batch: Batch
    steps: Int[Numbers, ""]


class Step(NamedTuple):
    """(lanes, table) -> (lanes, parts of the objectives [t l]); the lanes passed in are donated."""

    fixed: Fixed
    compiled: jax.stages.Compiled

    def __call__(self, lanes: Lanes, table: BatchTable) -> tuple[Lanes, Parts]:
        return self.compiled(lanes, self.fixed.theta, self.fixed.text, table)

    @property
    def temporary_bytes(self) -> int:
        """The temporary memory of a step on one device, in bytes."""
        memory_of_step = self.compiled.memory_analysis()
        return memory_of_step.temp_size_in_bytes if memory_of_step else 0


def stack(mesh: jax.sharding.Mesh, lanes: Sequence[tuple[TrainState, Constants]]) -> Lanes:
    """The states of several runs side by side, on every device."""
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *lanes)
    return meshes.replicate(mesh, Lanes(*stacked))


def stack_batches(
    mesh: jax.sharding.Mesh, rows: Sequence[Sequence[Batch]], size: int, most: int = 1
) -> BatchTable:
    """The lanes' batches of each step, filled up to one size, and split over the devices.

    Args:
        most: steps that the table has room for.
    """
    filled = [batch if len(batch.labels) == size else _fill(batch, size) for row in rows for batch in row]

    def stack(*leaves: Any) -> np.ndarray:
        stacked = np.zeros((most, len(rows[0]), *leaves[0].shape), leaves[0].dtype)
        np.stack(leaves, out=stacked[: len(rows)].reshape(-1, *leaves[0].shape))
        return stacked

    batch = meshes.shard(mesh, jax.tree.map(stack, *filled), axis=2)
    return BatchTable(batch, meshes.replicate(mesh, np.int32(len(rows))))


def _fill(batch: Batch, size: int) -> Batch:
    """Not with zeros, whose norm is none, but with the last image again; its weight is 0."""
    places: Int[np.ndarray, "b"] = np.minimum(np.arange(size), len(batch.labels) - 1)
    weights = np.where(np.arange(size) < len(batch.labels), np.asarray(batch.weights)[places], 0)
    return Batch(np.asarray(batch.images)[places], np.asarray(batch.labels)[places], weights.astype(np.float32))


def width(lanes: Lanes) -> int:
    """Number of lanes."""
    return lanes.states.step.shape[0]


def fetch_state(lanes: Lanes) -> list[TrainState]:
    """The state of the run in every lane, on the host."""
    states = jax.tree.map(meshes.fetch, lanes.states)
    return [jax.tree.map(lambda x, i=i: x[i, ...], states) for i in range(width(lanes))]


@jax.jit
def replace(lanes: Lanes, index: int, new: Lanes) -> Lanes:
    """Puts another run into the lane of this number; `new` has one lane."""
    return jax.tree.map(lambda old, x: old.at[index].set(x[0]), lanes, new)


def compile_step(fixed: Fixed, lanes: Lanes, table: BatchTable) -> Step:
    """Compiles the steps of these lanes ahead, for as many steps as the table has room for or fewer.

    Layers are stored for the backward pass if the device has room for them, and otherwise recomputed.
    """
    remat = fixed.remat == "always"
    if fixed.remat == "auto":
        images = fixed.num_samples * table.batch.labels.shape[-1]
        remat = width(lanes) * memory.kept_bytes(fixed.method, fixed.text, images) > memory.room()
    method = dataclasses.replace(
        fixed.method,
        text_tower=_with_remat(fixed.method.text_tower, remat),
        image_tower=_with_remat(fixed.method.image_tower, remat),
    )

    # Left to itself the compiler may split the new states as it likes, and the next call wants them as they were.
    steps = functools.partial(take_steps, method, fixed.num_samples)
    jitted = jax.jit(steps, donate_argnums=0, out_shardings=meshes.replicated(fixed.mesh))
    return Step(fixed, jitted.lower(lanes, fixed.theta, fixed.text, table).compile())


def take_steps(
    method: Method, num_samples: int, lanes: Lanes, theta: Parameters, text: Text, table: BatchTable
) -> tuple[Lanes, Parts]:
    """Takes the steps of a table one after another; their number is not part of the program, and no bit depends on
    it.
    """
    room = table.batch.labels.shape[:2]

    def body(i: Array | int, taken: tuple[Lanes, Parts]) -> tuple[Lanes, Parts]:
        lanes, known = taken
        batch = jax.tree.map(lambda x: x[i], table.batch)
        lanes, parts = take_step(method, num_samples, lanes, theta, text, batch)
        return lanes, jax.tree.map(lambda x, new: x.at[i].set(new), known, parts)

    taken = lanes, Parts(jnp.zeros(room), jnp.zeros(room))
    # A single step is no loop: in the body of one, XLA's convolutions take 40 times as long on a CPU.
    return jax.lax.fori_loop(0, table.steps, body, taken) if room[0] > 1 else body(0, taken)


def take_step(
    method: Method, num_samples: int, lanes: Lanes, theta: Parameters, text: Text, batch: Batch
) -> tuple[Lanes, Parts]:
    """Takes one step of the run in every lane, with its batch."""

    def step_of_lane(lane: Lanes, batch: Batch) -> tuple[Lanes, Parts]:
        state, parts = train_step(method, num_samples, lane.states, theta, text, batch, lane.constants)
        return Lanes(state, lane.constants), parts

    if len(batch.labels) > 1:
        return jax.vmap(step_of_lane)(lanes, batch)
    # A run alone has no lanes to compute over.
    lane, first = jax.tree.map(lambda x: x[0], (lanes, batch))
    return jax.tree.map(lambda x: x[None], step_of_lane(lane, first))


def _with_remat(tower: Any, remat: bool) -> Any:
    """The tower that computes its layers again, if it is one of equal layers."""
    return tower.clone(remat=remat) if hasattr(tower, "remat") else tower
