"""One measurement: a compiled function, its time and its memory, and its share of the device's peak."""

from __future__ import annotations

import functools
import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.accelerator.scale import Scale

WARM, SAMPLE, SAMPLES = 0.2, 0.05, 5  # seconds before, seconds of a sample, and how many
RUNNING = 8  # calls that are sent ahead: the device never waits for the host, nor memory for their results
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
        """Of a call, where calls follow each other without a wait: the median of samples."""
        start, calls = time.perf_counter(), 0
        while (warm := time.perf_counter() - start) < WARM or not calls:
            self.sample(1)
            calls += 1
        number = max(1, round(SAMPLE * calls / warm))
        return statistics.median(self.sample(number) for _ in range(SAMPLES))

    def sample(self, calls: int) -> float:
        """Seconds of a call, of so many that follow each other."""
        start, running = time.perf_counter(), deque[Any]()
        for _ in range(calls):
            running.append(self.compiled(*self.arguments))
            if len(running) > RUNNING:
                jax.block_until_ready(running.popleft())
        jax.block_until_ready(list(running))
        return (time.perf_counter() - start) / calls


def work(function: Callable[..., Any], *arguments: Any) -> Work:
    """Compiled, with its arguments on the device."""
    placed = jax.device_put(arguments)
    return Work(jax.jit(function).lower(*placed).compile(), placed)


class Ahead:
    """Works that are compiled side by side as soon as one is asked for: what is measured has the device to itself.

    Args:
        makers: by what a work is asked for.
        first: makes what all of them need.
    """

    def __init__(self, makers: Mapping[Hashable, Callable[[], Work]], first: Callable[[], object] = lambda: None):
        self._makers, self._first = makers, first

    @functools.cached_property
    def made(self) -> dict[Hashable, Future[Work]]:
        """All of them, or why there is none."""
        self._first()
        with ThreadPoolExecutor() as pool:
            return {key: pool.submit(make) for key, make in self._makers.items()}

    def __getitem__(self, key: Hashable) -> Work:
        return self.made[key].result()


def tower_dtype() -> jnp.dtype:
    """What towers compute in."""
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def frozen(init: Callable[..., Any], *inputs: Any) -> Any:
    """Random parameters of a tower, all in the dtype that towers compute in, as loading casts them."""

    def draw(*inputs: Any) -> Any:
        theta = init(jax.random.key(0), *inputs)["params"]
        return jax.tree.map(lambda x: x.astype(tower_dtype()), theta)

    return jax.jit(draw)(*inputs)


@functools.cache
def product(side: int, dtype: str, precision: str) -> float:
    """Operations per second of a square product."""
    x = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    return 2 * side**3 / work(functools.partial(jnp.matmul, precision=precision), x, x).seconds()


def of_peak(scale: Scale, flops: float, ms: float) -> Row:
    """Operations that are needed, and their share of the measured peak in the towers' dtype."""
    peak = product(scale.side, tower_dtype().name, "default")
    return dict(gflop=flops / 1e9, of_peak=flops / (ms / 1e3) / peak)
