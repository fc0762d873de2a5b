"""Orbax checkpoints of the trainables, the optimiser and the position in the data; never of the towers."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from pini_jax.core.errors import InputError, last_line
from pini_jax.train.step import TrainState

KEEP = 2
STATE = "state"
OWNERS = {  # what a checkpoint belongs to, and what another one is called
    "clip_sha256": "another CLIP",
    "selection_sha256": "other images",
    "test_sha256": "other test images",
    "config_hash": "another config",
}
LOG = logging.getLogger(__name__)


def _orbax() -> ModuleType:
    """Half a second to import: only what opens a checkpoint waits for it."""
    from orbax.checkpoint import v1

    return v1


def _digest(state: TrainState) -> str:
    """SHA-256 over the bytes of every array, in the order of the tree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def num_bytes(state: TrainState) -> int:
    """Bytes of the arrays in a checkpoint; on disk a few kilobytes of metadata come on top."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _cause(error: Exception) -> str:
    """What the system says of a failed write, which TensorStore may put before a page of its own settings."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else last_line(error)


def recorded(folder: Path) -> dict[str, str]:
    """What the latest readable checkpoint records about itself; empty if none does."""
    for step in reversed(_steps(folder)):
        with contextlib.suppress(Exception):
            return _metadata(folder, step)
    return {}


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def _metadata(folder: Path, step: int) -> dict[str, str]:
    """What we have written about a checkpoint; damaged files raise whatever their bytes lead to."""
    metadata = dict(_orbax().checkpointables_metadata(folder.absolute() / str(step)).custom_metadata)
    return {key: str(metadata[key]) for key in (*OWNERS, "sha256", "metrics_sha256")}


def _set_aside(folder: Path) -> None:
    """Renames checkpoints that say nothing of themselves: Orbax would read none beside them."""
    for step in _steps(folder):
        try:
            _metadata(folder, step)
        except Exception:
            LOG.warning("checkpoint %d is damaged and is skipped", step)
            with contextlib.suppress(OSError):  # another process has done it
                (folder / str(step)).rename(folder / f"{step}.damaged")


class Checkpoints:
    """The last checkpoints of a run; each appears at once, by a rename, or not at all.

    A checkpoint holds `STATE`, {"trainables", "optimiser", "position": {step, epoch, batch}}, with "buffers" if
    there are any, a hash of it, one of metrics.jsonl up to it, and those of what it belongs to.

    Attributes:
        metrics_sha256: of the checkpoint that was restored, if one was.
    """

    def __init__(
        self, folder: Path, batches_per_epoch: int, owners: Mapping[str, str], due: Callable[[int], bool]
    ):
        """Opens a folder.

        Args:
            owners: hashes by the keys of `OWNERS`.
            due: whether an undisturbed run has a checkpoint after so many steps.
        """
        self._batches_per_epoch = batches_per_epoch
        self._owners = owners
        self._due = due
        self._newest = 0
        self.metrics_sha256 = ""
        try:
            self._checkpointer = self._open(folder)
        except Exception:  # as above
            _set_aside(folder)
            self._checkpointer = self._open(folder)

    def _open(self, folder: Path) -> Any:
        # A thread of Orbax's clears. In a new folder there is nothing to do, and the folder may be gone before it.
        left = folder.exists() and any(folder.iterdir())
        return _orbax().training.Checkpointer(
            folder.absolute(), preservation_policy=self, cleanup_tmp_directories=left
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        # After a failed save, closing raises the same error once more.
        with contextlib.suppress(*([Exception] if kind else [])):
            self._checkpointer.close()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        """Which checkpoints to keep, for Orbax: the last `KEEP` that are due, and the newest, which may be a
        stop's.
        """
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*[step for step in steps if self._due(step)][-KEEP:], self._newest}
        return [step in kept for step in steps]

    def _content(self, state: TrainState) -> dict[str, Any]:
        epoch, batch = state.step // self._batches_per_epoch, state.step % self._batches_per_epoch
        content = {
            "trainables": state.phi,
            "optimiser": state.opt_state,
            "position": {"step": state.step, "epoch": epoch, "batch": batch},
        }
        return content | ({"buffers": state.buffers} if state.buffers else {})

    def save(self, state: TrainState, metrics_sha256: str = "") -> None:
        """Writes the state under its step, and deletes what `should_preserve` does not keep.

        Raises:
            OSError: the disk is full or cannot be written; earlier checkpoints stay.
        """
        step = self._newest = int(state.step)
        # Whole and from the host: Orbax takes 50 ms for a tree of small arrays, and longer for those of a device.
        content = {STATE: jax.tree.map(np.asarray, self._content(state))}
        metadata = dict(self._owners) | {"sha256": _digest(state), "metrics_sha256": metrics_sha256}
        try:
            self._checkpointer.save_checkpointables(
                step, content, force=True, overwrite=True, custom_metadata=metadata
            )
        except Exception as error:  # the storage library has errors of its own
            raise OSError(
                f"checkpoint {step} could not be written, earlier ones are kept ({_cause(error)})"
            ) from error

    def restore(self, like: TrainState) -> TrainState | None:
        """The latest state that reads back whole, or None where there is none.

        A damaged checkpoint is named in a warning, and the one before it is taken.

        Raises:
            InputError: the checkpoint belongs to another of `OWNERS`: a config, weights or images.
        """
        for checkpoint in reversed(self._checkpointer.checkpoints):
            try:
                return self._load(checkpoint.step, like)
            except InputError:
                raise
            except Exception:  # damaged files raise whatever their bytes lead to
                LOG.warning("checkpoint %d is damaged and is skipped", checkpoint.step)
        if self._checkpointer.checkpoints:
            LOG.warning("no checkpoint could be read: training starts again")
        return None

    def _load(self, step: int, like: TrainState) -> TrainState:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self._content(like)
        )
        content = self._checkpointer.load_checkpointables(step, {STATE: abstract})[STATE]
        saved = _metadata(Path(self._checkpointer.directory), step)
        for key, other in OWNERS.items():
            if saved[key] != self._owners[key]:
                raise InputError(f"checkpoint {step} belongs to {other}; choose another workdir")
        step_taken, buffers = content["position"]["step"], content.get("buffers", {})
        state = TrainState(step_taken, content["trainables"], content["optimiser"], buffers)
        if _digest(state) != saved["sha256"]:
            raise ValueError("its content does not match its hash")
        self.metrics_sha256 = saved["metrics_sha256"]
        return state
