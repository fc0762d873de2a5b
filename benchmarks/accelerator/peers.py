"""The text step beside the paper's in PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.accelerator.packages import TORCH, missing
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.work import Row


def measure(scale: Scale) -> Iterator[Row]:
    """Rows of `benchmarks.step`."""
    if absent := missing(TORCH):
        yield dict(left_out=f"{', '.join(absent)} is missing")
        return
    if not scale.peers:
        yield dict(left_out="python -m benchmarks.step measures this on a CPU")
        return
    from benchmarks import inputs, random_clip, step  # of these packages

    with tempfile.TemporaryDirectory() as folder:
        random_clip.write(Path(folder), inputs.VIT_B_16)
        for classes in scale.peers:
            yield from step.measure(classes, folder, repeats=3, with_torch=True)
