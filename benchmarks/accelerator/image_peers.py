"""The image tower beside transformers' in PyTorch, on equal weights and pixels, in turn.

PyTorch is a process of its own, with each of its fast attentions, as it is and compiled (`torch_clip.ways`).
`difference` is that of all features to ours, to their size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import flops, inputs
from benchmarks.accelerator import images, packages, pytorch, turns
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.tasks import Task
from benchmarks.accelerator.work import Row, Work, of_peak, tower_dtype
from pini_jax.clip.architecture import Architecture


def tasks(scale: Scale) -> Iterator[Task]:
    """Images per second by tower, of each side."""
    packages.demand(packages.TORCH)
    for name in scale.images:
        told = dict(tower=name, batch=scale.batch, dtype=tower_dtype().name)
        yield Task(told, functools.partial(compare, scale, name))


def compare(scale: Scale, name: str) -> Iterator[Row]:
    """The milliseconds of each side, and why others have none."""
    sizes = dataclasses.replace(SIZES[name], text=SIZES["tiny"].text)  # texts are nothing to it
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write(folder, sizes)
        command = "images", str(folder), str(scale.batch), tower_dtype().name
        ours, theirs = pytorch.beside(stack, functools.partial(our_side, folder, sizes, scale.batch), *command)
        features = np.array(ours.compiled(*ours.arguments), np.float32)
        for side, ms in turns.medians(ours, theirs, theirs.said["ways"]).items():
            row = dict(side=side, ms=ms) | rates(scale, sizes, ms)
            if side != turns.OURS:
                row |= dict(difference=difference(np.load(folder / f"{side}.npy"), features))
            yield row
        for side, why in theirs.said["left_out"].items():
            yield dict(side=side, left_out=why)


def write(folder: Path, sizes: Architecture) -> None:
    """A random CLIP."""
    from benchmarks import random_clip  # of packages that may be missing

    random_clip.write(folder, sizes)


def our_side(folder: Path, sizes: Architecture, batch: int) -> Work:
    """Its image tower, with what the other side makes as pixels."""
    from pini_jax.clip import pretrained  # as above

    clip = pretrained.load_clip(str(folder), dtype=tower_dtype())
    pixels = inputs.make_pixels(sizes.image.image_size, batch)
    return images.forwards(clip.image_tower, clip.theta["image"], pixels)


def rates(scale: Scale, sizes: Architecture, ms: float) -> Row:
    """Images per second, and the share of the peak that this is."""
    rate = dict(per_second=scale.batch / ms * 1e3)
    return rate | of_peak(scale, scale.batch * flops.image_flops(sizes), ms)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """|a - b| / |b| of all features."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
