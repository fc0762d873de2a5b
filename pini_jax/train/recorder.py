"""What a run writes while it trains: lines of metrics.jsonl, and checkpoints."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pini_jax.core import paths
from pini_jax.data.datasets import records
from pini_jax.task.run import Run
from pini_jax.train.checkpoint import Checkpoints
from pini_jax.train.saves import Write
from pini_jax.train.step import TrainState
from pini_jax.train.writers import open_writers

METRICS = "metrics.jsonl"  # of a run
LOG = logging.getLogger(__name__)


class Recorder:
    """The open files and the progress of a run.

    Attributes:
        state: of the last checkpoint, or a fresh one; on the host, or on every device.
        start: steps that were taken before.
        seconds: from the first step to the last checkpoint.
        first_loss: of the first step since then, on the device.
        problem: why there can be no result.
    """

    def __init__(self, run: Run, fresh: TrainState):
        self._run, self._num_steps = run, run.num_steps
        rate = run.shared.method.schedule(run.config.optim, run.length)
        self._rates = np.asarray(rate(jnp.arange(run.num_steps)))
        self._begun = self.seconds = 0.0
        self.first_loss: jax.Array | None = None
        self.problem: str | None = None
        folder, per_epoch = run.workdir / paths.CHECKPOINTS, run.batches.per_epoch
        with ExitStack() as files:  # which an error here closes
            self._checkpoints = files.enter_context(Checkpoints(folder, per_epoch, owners(run), self.saves))
            self.state = self._checkpoints.restore(fresh) or fresh
            self.start = int(self.state.step)
            if self.start:
                LOG.info("going on from step %d of %d", self.start, run.num_steps)
            lines = MetricsFile(run.workdir / METRICS, self.start, self._checkpoints.metrics_sha256)
            self._lines = files.enter_context(lines)
            self._writers = files.enter_context(open_writers(run, self.start))
            self._files = files.pop_all()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(*error)  # type: ignore[arg-type]

    def begin(self) -> None:
        """Starts the clock before the first step."""
        self._begun = time.perf_counter()

    def logs(self, done: int) -> bool:
        """Whether a line is due after so many steps."""
        return done % self._run.config.log_every == 0 or done == self._num_steps

    def write(self, done: int, loss: float, accuracy: float) -> None:
        """Writes a line about the last of `done` steps."""
        if not math.isfinite(loss):
            self.fail(f"the loss of step {done} is {loss}")
        else:
            values = {"loss": loss, "accuracy": accuracy, "learning_rate": float(self._rates[done - 1])}
            self._lines.write(step=done, **values)
            for writer in self._writers:
                writer.write(done, values)

    def saves(self, done: int) -> bool:
        """Whether a checkpoint is due after so many steps."""
        return done % self._run.config.checkpoint_every == 0 or done == self._num_steps

    def save(self, done: int, state: TrainState) -> list[Write]:
        """What writes the checkpoint, in any thread; nothing if something in it is no number."""
        if not is_finite(state):
            self.fail(f"after step {done} not all parameters are finite")
            return []
        return [functools.partial(self._write_checkpoint, state, self._lines.flush())]

    def _write_checkpoint(self, state: TrainState, metrics_sha256: str) -> None:
        self._checkpoints.save(state, metrics_sha256)
        self.state, self.seconds = state, time.perf_counter() - self._begun

    def fail(self, how: str) -> None:
        """Records that there can be no result, since something is not finite."""
        # The learning rate has done nothing before the first update.
        learned = self.start or (self.first_loss is not None and math.isfinite(float(self.first_loss)))
        mend = "lower optim.lr" if learned else "no step was taken before: look at the features and the noise"
        self.problem = f"training diverged: {how}; {mend} ({self._run.workdir})"


def owners(run: Run) -> dict[str, str]:
    """The hashes of what a run's checkpoints belong to."""
    return {
        "config_hash": run.config.hash,
        "clip_sha256": run.shared.frozen.fingerprint,
        "selection_sha256": run.selection_hash,
        "test_sha256": records.list_hash(run.data.test),
    }


def is_finite(state: TrainState) -> bool:
    """Whether what is learned or stored after a step is finite; what the optimiser keeps is not looked at."""
    leaves = [x for x in jax.tree.leaves(state.variables) if jnp.issubdtype(x.dtype, jnp.floating)]
    return all(np.isfinite(x).all() for x in leaves)


class MetricsFile:
    """metrics.jsonl, cut back to the step that training goes on from; a changed line before it is warned of."""

    def __init__(self, path: Path, keep_until: int, sha256: str = ""):
        kept = "".join(line + "\n" for line, step in _records(path) if step <= keep_until)
        self._digest = hashlib.sha256(kept.encode())
        if sha256 and self._digest.hexdigest() != sha256:
            LOG.warning("%s: its lines up to step %d are not those that were written", path, keep_until)
        paths.write_file(path, kept)
        self._file = open(os.devnull if jax.process_index() else path, "a")  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, **values: float) -> None:
        """Adds a line."""
        line = json.dumps(values) + "\n"
        self._digest.update(line.encode())
        self._file.write(line)

    def flush(self) -> str:
        """Puts all lines on the disk, so that no checkpoint is ahead of them; a hash over all of them."""
        self._file.flush()
        return self._digest.hexdigest()


def _records(path: Path) -> Iterator[tuple[str, int]]:
    """The lines that are records, with their steps; the others are counted in a warning."""
    # What follows the last newline was cut off by a kill.
    lines = path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []
    broken = 0
    for line in lines:
        step = None
        with contextlib.suppress(ValueError, TypeError, RecursionError):  # what a power cut left of a line
            step = json.loads(line)["step"]
        if isinstance(step, int):
            yield line, step
        else:
            broken += 1
    if broken:
        LOG.warning("%s: %d damaged lines are left out", path, broken)
