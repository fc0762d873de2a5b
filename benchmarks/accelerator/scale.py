"""How large everything is that is measured: on an accelerator, and on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Scale(NamedTuple):
    """How large everything is.

    Attributes:
        side: of the square matrices.
        copied: numbers that are read and written for the bandwidth.
        texts, images: names of `sizes.SIZES`.
        batch: images.
        classes: of the text steps, what matters most first.
        lanes: members side by side.
        lane_classes: of their steps.
        steps: per call at most, where a call takes many.
        training: (clip, classes, shots, epochs) as in `benchmarks.population`, and the epochs of its shares.
        together: the same of a population, and its members.
    """

    side: int
    copied: int
    texts: Sequence[str]
    images: Sequence[str]
    batch: int
    classes: Sequence[int]
    lanes: Sequence[int]
    lane_classes: Sequence[int]
    steps: int
    training: tuple[str, int, int, int, int]
    together: tuple[str, int, int, int, int]


LARGE = Scale(
    side=8192,
    copied=2**29,
    texts=("B/16", "L/14"),
    images=("B/16", "L/14-336"),
    batch=256,
    classes=(1000, 100, 10, 397),
    lanes=(15, 5, 45),
    lane_classes=(10, 37, 100),
    steps=32,
    training=("", 37, 16, 100, 20),
    together=("", 10, 16, 100, 15),
)
SMALL = Scale(
    side=64,
    copied=2**10,
    texts=("tiny",),
    images=("tiny",),
    batch=2,
    classes=(10,),
    lanes=(2,),
    lane_classes=(10,),
    steps=2,
    training=("tiny_clip", 10, 1, 1, 2),
    together=("tiny_clip", 10, 1, 1, 2),
)
