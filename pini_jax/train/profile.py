"""A trace of a few steps, for TensorBoard's profiler or Perfetto: what the device does when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from pini_jax.train.loop import Watch

FIRST, LAST = 5, 10  # calls, after which it begins and ends: by the fifth, batches are there ahead


@contextlib.contextmanager
def traced(folder: Path) -> Iterator[Watch]:
    """A watch that has JAX trace the sixth to the tenth call of the compiled steps, into a folder."""
    calls = 0

    def watch(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == FIRST:
            jax.profiler.start_trace(str(folder))
        elif calls == LAST:
            jax.profiler.stop_trace()

    try:
        yield watch
    finally:
        if FIRST <= calls < LAST:
            jax.profiler.stop_trace()
