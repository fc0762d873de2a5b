"""The device's peak: a square product in each precision, and the bandwidth of memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.tasks import Task
from benchmarks.accelerator.work import Row, product, work


def tasks(scale: Scale) -> Iterator[Task]:
    """Products in every precision; and x + 1, which reads and writes all."""
    for dtype, precision in (("bfloat16", "default"), ("float32", "tensorfloat32"), ("float32", "highest")):
        told = dict(dtype=dtype, precision=precision)
        yield Task(told, functools.partial(measure_product, scale.side, dtype, precision))
    yield Task(dict(what="bandwidth"), functools.partial(measure_bandwidth, scale.copied))


def measure_product(side: int, dtype: str, precision: str) -> Iterator[Row]:
    """Its rate."""
    yield dict(tflops=product(side, dtype, precision) / 1e12)


def measure_bandwidth(numbers: int) -> Iterator[Row]:
    """Of as many numbers of 4 bytes."""
    copy = work(lambda x: x + 1, np.zeros(numbers, np.float32))
    yield dict(gb_per_second=8 * numbers / copy.seconds() / 1e9)
