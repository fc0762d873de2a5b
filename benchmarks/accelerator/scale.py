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
        classes: of the text steps.
        lanes: members side by side.
        lane_classes: of their steps.
        steps: per call, where a call takes many.
        peers: numbers of classes of the steps beside PyTorch's, what matters most first.
        training: (clip, classes, shots, epochs) as in `benchmarks.population`, and the epochs of its shares.
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
    peers: Sequence[int]
    training: tuple[str, int, int, int, int]


LARGE = Scale(
    side=8192,
    copied=2**29,
    texts=("B/16", "L/14"),
    images=("B/16", "L/14-336"),
    batch=256,
    classes=(10, 100, 397, 1000),
    lanes=(1, 5, 15, 45),
    lane_classes=(10, 37, 100),
    steps=20,
    peers=(100, 1000, 10, 397),
    training=("", 37, 16, 100, 20),
)
SMALL = Scale(
    side=64,
    copied=2**10,
    texts=("tiny",),
    images=("tiny",),
    batch=2,
    classes=(10,),
    lanes=(1, 2),
    lane_classes=(10,),
    steps=2,
    peers=(10,),
    training=("tiny_clip", 10, 1, 1, 2),
)
