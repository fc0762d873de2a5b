"""The text step beside the paper's in PyTorch, on cached features, equal weights and draws, in turn.

PyTorch is a process of its own, in the dtype of our towers; it runs the 77 tokens of every class. Losses are those
of the first step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.accelerator import packages, pytorch, turns
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.tasks import Task, once
from benchmarks.accelerator.text import replay_step
from benchmarks.accelerator.work import Ahead, Row, Work, tower_dtype, work

Sides = tuple[Ahead, timing.Worker]


def tasks(scale: Scale) -> Iterator[Task]:
    """Steps by tower and number of classes."""
    packages.demand(packages.TORCH)
    for name in scale.texts:
        with contextlib.ExitStack() as stack:
            sides = once(functools.partial(begin, stack, name, scale))
            for classes in scale.classes:
                told = dict(tower=name, classes=classes, dtype=tower_dtype().name)
                yield Task(told, functools.partial(compare, sides, classes))


def begin(stack: contextlib.ExitStack, name: str, scale: Scale) -> Sides:
    """The steps of one tower on both sides, until the stack ends."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    theta = weights(folder, name)
    works = Ahead({classes: functools.partial(our_side, name, classes, theta) for classes in scale.classes})
    command = "steps", str(folder), name, tower_dtype().name, *map(str, scale.classes)
    _, theirs = pytorch.beside(stack, lambda: works.made, *command)
    return works, theirs


def weights(folder: Path, name: str) -> Any:
    """Of the text tower of a random CLIP, which is written to the folder."""
    from benchmarks import random_clip  # of packages that may be missing
    from pini_jax.clip import pretrained

    random_clip.write(folder, dataclasses.replace(SIZES[name], image=SIZES["tiny"].image))  # features are cached
    return pretrained.load_clip(str(folder), dtype=tower_dtype()).theta["text"]


def our_side(name: str, classes: int, theta: Any) -> Work:
    """The step with given draws."""
    step = replay_step(name, classes, theta)
    return work(step.call, *step.arguments)


def compare(sides: Callable[[], Sides], classes: int) -> Iterator[Row]:
    """Milliseconds and losses of both sides, or why PyTorch has none."""
    works, theirs = sides()
    ours, key = works[classes], str(classes)
    row = dict(loss=float(ours.compiled(*ours.arguments)[1]))
    if why := theirs.said["left_out"].get(key):
        yield row | dict(left_out=f"PyTorch: {why}")
        return
    taken = turns.medians(ours, theirs, [key])
    row |= dict(ms=taken[turns.OURS], pytorch_ms=taken[key], pytorch_loss=theirs.said["losses"][key])
    yield row | dict(ratio=row["pytorch_ms"] / row["ms"])
