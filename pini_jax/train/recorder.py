"""What a run writes while it trains: lines of metrics.jsonl, and checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack

from pini_jax.core.errors import InputError
from pini_jax.methods import optim
from pini_jax.runs import folder as results
from pini_jax.task.run import Run
from pini_jax.train.checkpoint import Checkpoints
from pini_jax.train.step import TrainState

LOG = logging.getLogger(__name__)


class Ledger:
    """The open files of a run, and how far it is.

    Attributes:
        state: of the last checkpoint, or a fresh one.
        start: steps that were taken before.
        seconds: from the first step to the last checkpoint.
        problem: why there can be no result.
    """

    def __init__(self, run: Run, fresh: TrainState):
        self._run = run
        self._rate = optim.schedule(run.config.optim, run.batches.per_epoch)
        self._files = ExitStack()
        self._begun = 0.0
        folder, fingerprint = run.workdir / "checkpoints", run.shared.backbone.fingerprint
        self._checkpoints = self._files.enter_context(Checkpoints(folder, run.batches.per_epoch, fingerprint))
        try:
            self.state = self._checkpoints.restore(fresh) or fresh
        except InputError:
            self._files.close()
            raise
        self.start = int(self.state.step)
        self.seconds = 0.0
        self.problem: str | None = None
        if self.start:
            LOG.info("going on from step %d of %d", self.start, run.num_steps)
        self._lines = self._files.enter_context(results.MetricsFile(run.workdir / "metrics.jsonl", self.start))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error) -> None:
        self._files.__exit__(*error)

    def open(self) -> None:
        """The first step is about to be taken."""
        self._begun = time.perf_counter()

    def due(self, done: int) -> bool:
        """Whether there is something to write after so many steps."""
        return self.problem is None and (done % self._run.config.log_every == 0 or done == self._run.num_steps)

    def write(self, done: int, loss: float, accuracy: float, state: Callable[[], TrainState]) -> None:
        """A line about the last of `done` steps, and a checkpoint where one is due."""
        if not math.isfinite(loss):
            where = f" ({self._run.workdir})"
            self.problem = f"training diverged: the loss of step {done} is {loss}; lower optim.lr{where}"
            return
        rate = float(self._rate(done - 1))
        self._lines.write(step=done, loss=loss, accuracy=accuracy, learning_rate=rate)
        if done % self._run.config.checkpoint_every == 0 or done == self._run.num_steps:
            self._save(state())

    def _save(self, state: TrainState) -> None:
        self._lines.flush()
        self._checkpoints.save(state)
        self.state, self.seconds = state, time.perf_counter() - self._begun
