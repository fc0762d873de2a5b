"""The device's peak: a square product in each precision, and the bandwidth of memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.work import Row, product, work


def measure(scale: Scale) -> Iterator[Row]:
    """Products in every precision; and x + 1, which reads and writes all."""
    for dtype, precision in (("bfloat16", "default"), ("float32", "tensorfloat32"), ("float32", "highest")):
        yield dict(dtype=dtype, precision=precision, tflops=product(scale.side, dtype, precision) / 1e12)
    copy = work(lambda x: x + 1, np.zeros(scale.copied, np.float32))
    yield dict(what="bandwidth", gb_per_second=8 * scale.copied / copy.seconds() / 1e9)
