"""One measurement: a compiled function, its time and its memory, and its share of the device's peak."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.accelerator.scale import Scale

ROUND, CALLS = 0.5, 20  # seconds and calls of a measurement, at most
Row = dict[str, Any]


class Work(NamedTuple):
    """A compiled function with its arguments."""

    compiled: jax.stages.Compiled
    arguments: tuple[Any, ...]

    @property
    def measured(self) -> Row:
        """Median milliseconds of a call, and the bytes of what is computed on the way."""
        memory = self.compiled.memory_analysis()
        return dict(ms=1e3 * self.seconds(), temporary_mb=memory.temp_size_in_bytes / 1e6 if memory else None)

    def seconds(self) -> float:
        """Of a call, after one that warms up."""
        taken: list[float] = []
        jax.block_until_ready(self.compiled(*self.arguments))
        while not taken or (sum(taken) < ROUND and len(taken) < CALLS):
            taken.append(self.once())
        return statistics.median(taken)

    def once(self) -> float:
        """Seconds of a single call."""
        start = time.perf_counter()
        jax.block_until_ready(self.compiled(*self.arguments))
        return time.perf_counter() - start


def work(function: Callable[..., Any], *arguments: Any) -> Work:
    """Compiled, with its arguments on the device."""
    placed = jax.device_put(arguments)
    return Work(jax.jit(function).lower(*placed).compile(), placed)


def tower_dtype() -> jnp.dtype:
    """What towers compute in."""
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


@functools.cache
def product(side: int, dtype: str, precision: str) -> float:
    """Operations per second of a square product."""
    x = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    return 2 * side**3 / work(functools.partial(jnp.matmul, precision=precision), x, x).seconds()


def of_peak(scale: Scale, flops: float, ms: float) -> Row:
    """Operations that are needed, and their share of the measured peak in the towers' dtype."""
    peak = product(scale.side, tower_dtype().name, "default")
    return dict(gflop=flops / 1e9, of_peak=flops / (ms / 1e3) / peak)
