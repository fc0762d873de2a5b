"""A trace of a few steps, for TensorBoard's profiler or Perfetto: what the device does when."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

FIRST, LAST = 5, 10  # calls, after which it begins and ends: by the fifth, batches are there ahead


@contextlib.contextmanager
def traced(folder: Path) -> Iterator[Callable[[int, int], None]]:
    """What has JAX trace the sixth to the tenth call of the compiled steps, into a folder, as it hears of them.

    Where all steps are taken before, the trace ends with them: evaluations are none of it.
    """
    calls, tracing = 0, False

    def stepped(done: int, total: int) -> None:
        nonlocal calls, tracing
        calls += 1
        due = FIRST <= calls < LAST and done < total
        if due != tracing:
            jax.profiler.start_trace(str(folder)) if due else jax.profiler.stop_trace()
            tracing = due

    try:
        yield stepped
    finally:
        if tracing:
            jax.profiler.stop_trace()
