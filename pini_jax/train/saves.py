"""Checkpoints that are written in a thread while the device takes further steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

Write = Callable[[], object]


class Saves:
    """Writes what is due after a step as a whole: all of it before anything of a later step is begun.

    An error of a write is raised by the next call after it, at the latest by that which ends the training.

    Args:
        act: is called after what was due is on the disk, where the steps are taken and while nothing is written.
    """

    def __init__(self, act: Callable[[], object]):
        self._act = act
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._begun: Future[None] | None = None

    def __enter__(self) -> Saves:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with self._thread:
            if error is None:
                self.finish()

    def begin(self, writes: Sequence[Write]) -> None:
        """Begins to write what is due after a step, if anything is."""
        if not writes:
            return
        self.finish()
        self._begun = self._thread.submit(_call, writes)
        if jax.process_count() > 1:
            # Processes must start what they wait for each other in together, in one order.
            self.finish()

    def look(self) -> None:
        """Calls `act` if what was begun is complete."""
        if self._begun and self._begun.done():
            self.finish()

    def finish(self) -> None:
        """Waits until what was begun is complete, and calls `act`."""
        begun, self._begun = self._begun, None
        if begun:
            begun.result()
            self._act()


def _call(writes: Sequence[Write]) -> None:
    for write in writes:
        write()
