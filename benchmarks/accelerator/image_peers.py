"""The image tower beside transformers' in PyTorch, on equal weights and pixels, in turn.

PyTorch is a process of its own, with each of its fast attentions, as it is and compiled (`torch_clip.ways`).
`difference` is that of all features to ours, to their size.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import flops, inputs, timing
from benchmarks.accelerator import images, turns
from benchmarks.accelerator.packages import TORCH, missing
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.work import Row, Work, of_peak, tower_dtype
from pini_jax.clip.architecture import Architecture


def measure(scale: Scale) -> Iterator[Row]:
    """Images per second by tower, of each side; what does not work is left out with the reason."""
    if absent := missing(TORCH):
        yield dict(left_out=f"{', '.join(absent)} is missing")
        return
    for name in scale.images:
        sizes = dataclasses.replace(SIZES[name], text=SIZES["tiny"].text)  # texts are nothing to it
        told = dict(tower=name, batch=scale.batch, dtype=tower_dtype().name)
        with tempfile.TemporaryDirectory() as folder:
            try:
                for row in sides(Path(folder), sizes, scale.batch):
                    yield told | row | rates(scale, sizes, row)
            except ChildProcessError as error:
                yield told | dict(left_out=str(error))


def sides(folder: Path, sizes: Architecture, batch: int) -> Iterator[Row]:
    """The milliseconds of each, and why others have none."""
    ours = our_side(folder, sizes, batch)
    features = np.array(ours.compiled(*ours.arguments), np.float32)
    with timing.Worker("benchmarks.torch_clip", "images", str(folder), str(batch), tower_dtype().name) as theirs:
        taken = turns.medians(ours, theirs, theirs.said["ways"])
    for side, ms in taken.items():
        row = dict(side=side, ms=ms)
        if side != turns.OURS:
            row |= dict(difference=difference(np.load(folder / f"{side}.npy"), features))
        yield row
    for side, why in theirs.said["left_out"].items():
        yield dict(side=side, left_out=why)


def our_side(folder: Path, sizes: Architecture, batch: int) -> Work:
    """The tower of a random CLIP, which is written to the folder, with what the other side makes as pixels."""
    from benchmarks import random_clip  # of packages that may be missing
    from pini_jax.clip import pretrained

    random_clip.write(folder, sizes)
    clip = pretrained.load_clip(str(folder), dtype=tower_dtype())
    pixels = inputs.make_pixels(sizes.image.image_size, batch)
    return images.forwards(clip.image_tower, clip.theta["image"], pixels)


def rates(scale: Scale, sizes: Architecture, row: Row) -> Row:
    """Images per second, and the share of the peak that this is."""
    if "ms" not in row:
        return {}
    rate = dict(per_second=scale.batch / row["ms"] * 1e3)
    return rate | of_peak(scale, scale.batch * flops.image_flops(sizes), row["ms"])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """|a - b| / |b| of all features."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
