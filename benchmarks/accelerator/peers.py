"""The text step beside the paper's in PyTorch, on cached features, equal weights and draws, in turn.

PyTorch is a process of its own, in the dtype of our towers; it runs the 77 tokens of every class. Losses are those
of the first step. What has not begun after `SECONDS` is left out.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.accelerator import turns
from benchmarks.accelerator.packages import TORCH, missing
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.text import text_step
from benchmarks.accelerator.work import Row, tower_dtype, work

SECONDS = 90.0  # of all rows


def measure(scale: Scale) -> Iterator[Row]:
    """Steps by tower and number of classes; what does not work is left out with the reason."""
    if absent := missing(TORCH):
        yield dict(left_out=f"{', '.join(absent)} is missing")
        return
    end = time.monotonic() + SECONDS
    for name in scale.texts:
        told = dict(tower=name, dtype=tower_dtype().name)
        with tempfile.TemporaryDirectory() as folder:
            try:
                for row in steps(Path(folder), name, scale, end):
                    yield told | row
            except ChildProcessError as error:
                yield told | dict(left_out=str(error))


def steps(folder: Path, name: str, scale: Scale, end: float) -> Iterator[Row]:
    """Of one tower."""
    theta = weights(folder, name)
    command = "benchmarks.torch_clip", "steps", str(folder), name, tower_dtype().name, *map(str, scale.peers)
    with timing.Worker(*command) as theirs:
        for classes in scale.peers:
            late = time.monotonic() > end
            row = dict(left_out=f"after {SECONDS:.0f} seconds") if late else compare(name, classes, theta, theirs)
            yield dict(classes=classes) | row


def weights(folder: Path, name: str) -> Any:
    """Of the text tower of a random CLIP, which is written to the folder."""
    from benchmarks import random_clip  # of packages that may be missing
    from pini_jax.clip import pretrained

    random_clip.write(folder, dataclasses.replace(SIZES[name], image=SIZES["tiny"].image))  # features are cached
    return pretrained.load_clip(str(folder), dtype=tower_dtype()).theta["text"]


def compare(name: str, classes: int, theta: Any, theirs: timing.Worker) -> Row:
    """Milliseconds and losses of both sides, or why PyTorch has none."""
    step, key = text_step(name, classes, theta=theta), str(classes)
    ours = work(step.call, *step.arguments)
    row = dict(loss=float(ours.compiled(*ours.arguments)[1]))
    if why := theirs.said["left_out"].get(key):
        return row | dict(left_out=f"PyTorch: {why}")
    taken = turns.medians(ours, theirs, [key])
    row |= dict(ms=taken[turns.OURS], pytorch_ms=taken[key], pytorch_loss=theirs.said["losses"][key])
    return row | dict(ratio=row["pytorch_ms"] / row["ms"])
