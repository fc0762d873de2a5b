"""How far a training is, told while it goes on: a bar on a terminal, elsewhere a line every so often.

Calls are queued faster than the device is done with them, so that steps count when their losses are known.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax

from pini_jax.core.progress import bar, is_hidden
from pini_jax.core.wording import duration

EVERY = 30.0  # seconds between lines
QUEUED = 2  # calls that the device may be behind: enough to keep it busy
LOG = logging.getLogger(__name__)


Pending = Any  # an array; what jax says of their type lacks `is_ready`


class StepCounter:
    """Counts the steps that the device has finished.

    Attributes:
        total, done: steps.

    Args:
        total: steps of all runs.
        done: those that were taken before.
        is_terminal: whether a bar can be drawn; None asks stderr.
        clock: seconds.
    """

    def __init__(
        self,
        total: int,
        done: int,
        is_terminal: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        is_terminal = sys.stderr.isatty() if is_terminal is None else is_terminal
        speaks = jax.process_index() == 0 and not is_hidden()  # the first process speaks for all
        hidden = not (speaks and is_terminal)
        self._bar = bar(total=total, initial=done, unit="step", desc="training", disable=hidden)
        self._tells = speaks and not is_terminal
        self.total, self.done, self._before = total, done, done
        self._said, self._clock = "", clock
        self._begun = self._told = clock()
        self._waiting: deque[tuple[Pending, int]] = deque()

    def __enter__(self) -> StepCounter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._finish(down_to=0)
        self._bar.close()

    def queue(self, loss: Pending, steps: int) -> None:
        """Notes that steps were handed to the device; waits if it is far behind."""
        self._waiting.append((loss, steps))
        self._finish(down_to=QUEUED)

    @property
    def rate(self) -> float:
        """Steps finished per second, so far."""
        return (self.done - self._before) / max(self._clock() - self._begun, 1e-9)

    def say(self, loss: float, accuracy: float) -> None:
        """Shows the loss and accuracy of the last step that was recorded."""
        self._said = f"loss={loss:.3f}, accuracy={accuracy:.1%}"
        self._bar.set_postfix_str(self._said, refresh=False)

    def _finish(self, down_to: int) -> None:
        """Counts what is finished, and waits until no more than so many calls are not."""
        while self._waiting and (len(self._waiting) > down_to or self._waiting[0][0].is_ready()):
            loss, steps = self._waiting.popleft()
            loss.block_until_ready()
            self.done += steps
            self._bar.update(steps)
        if self._tells and self._clock() - self._told >= EVERY:
            self._tell()

    def _tell(self) -> None:
        self._told = self._clock()
        left = f", about {duration((self.total - self.done) / self.rate)} left" if self.rate else ""
        LOG.info("step %s of %s%s%s", f"{self.done:,}", f"{self.total:,}", left, self._said and f"; {self._said}")
