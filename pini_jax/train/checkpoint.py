"""Orbax checkpoints of the trainables, the optimiser and the position in the data; never of the towers."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from pini_jax.core.errors import InputError, last_line
from pini_jax.train.step import TrainState

KEEP = 2
LOG = logging.getLogger(__name__)


def _digest(state: TrainState) -> str:
    """SHA-256 over the bytes of every array, in the order of the tree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def num_bytes(state: TrainState) -> int:
    """Bytes of the arrays in a checkpoint; on disk a few kilobytes of metadata come on top."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


class Checkpoints:
    """The last `KEEP` checkpoints of a run; each appears at once, by a rename, or not at all.

    A checkpoint holds {"trainables", "optimiser", "position": {step, epoch, batch}}, with "buffers" if there are
    any, a hash of its content, and the hash of the CLIP that it belongs to.
    """

    def __init__(self, folder: Path, batches_per_epoch: int, clip_sha256: str):
        self._batches_per_epoch = batches_per_epoch
        self._clip_sha256 = clip_sha256
        self._orbax = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(KEEP),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        # After a failed save, closing raises the same error once more.
        with contextlib.suppress(*([Exception] if kind else [])):
            self._orbax.close()

    def _content(self, state: TrainState) -> dict[str, Any]:
        epoch, batch = state.step // self._batches_per_epoch, state.step % self._batches_per_epoch
        content = {
            "trainables": state.phi,
            "optimiser": state.opt_state,
            "position": {"step": state.step, "epoch": epoch, "batch": batch},
        }
        return content | ({"buffers": state.buffers} if state.buffers else {})

    def save(self, state: TrainState) -> None:
        """Writes the state under its step, and deletes the oldest checkpoint.

        Raises:
            OSError: the disk is full or cannot be written; earlier checkpoints stay.
        """
        step = int(state.step)
        content = self._content(state)
        metadata = {"sha256": _digest(state), "clip_sha256": self._clip_sha256}
        try:
            self._orbax.save_checkpointables(step, content, force=True, overwrite=True, custom_metadata=metadata)
        except Exception as error:  # the storage library has errors of its own
            raise OSError(
                f"checkpoint {step} could not be written, earlier ones are kept ({last_line(error)})"
            ) from error

    def restore(self, like: TrainState) -> TrainState | None:
        """The latest state that reads back whole, or None where there is none.

        A damaged checkpoint is named in a warning, and the one before it is taken.

        Raises:
            InputError: the checkpoint was trained on other weights.
        """
        for checkpoint in reversed(self._orbax.checkpoints):
            try:
                return self._load(checkpoint.step, like)
            except InputError:
                raise
            except Exception:  # damaged files raise whatever their bytes lead to
                LOG.warning("checkpoint %d is damaged and is skipped", checkpoint.step)
        if self._orbax.checkpoints:
            LOG.warning("no checkpoint could be read: training starts again")
        return None

    def _load(self, step: int, like: TrainState) -> TrainState:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self._content(like)
        )
        content = self._orbax.load_checkpointables(step, abstract)
        saved = ocp.checkpointables_metadata(self._orbax.directory / str(step)).custom_metadata
        if saved["clip_sha256"] != self._clip_sha256:
            raise InputError(f"checkpoint {step} was trained on another CLIP; choose another workdir")
        step_taken, buffers = content["position"]["step"], content.get("buffers", {})
        state = TrainState(step_taken, content["trainables"], content["optimiser"], buffers)
        if _digest(state) != saved["sha256"]:
            raise ValueError("its content does not match its hash")
        return state
