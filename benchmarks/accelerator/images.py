"""The image tower forwards."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import flops
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.tasks import Task
from benchmarks.accelerator.work import Ahead, Row, Work, frozen, of_peak, tower_dtype, work
from pini_jax.clip import towers


@functools.cache
def image_work(name: str, batch: int) -> Work:
    """A batch of pixels through the tower, with random weights."""
    sizes = SIZES[name]
    tower, side = towers.image_tower(sizes, tower_dtype()), sizes.image.image_size
    pixels = jax.random.normal(jax.random.key(0), (batch, side, side, 3))
    return forwards(tower, frozen(tower.init, pixels[:1]), pixels)


def forwards(tower: towers.ImageTower, theta: Any, pixels: Any) -> Work:
    """Features of the pixels, un-normalised."""
    return work(lambda theta, pixels: tower.apply({"params": theta}, pixels), theta, pixels)


def tasks(scale: Scale) -> Iterator[Task]:
    """Images per second by tower."""
    works = Ahead({name: functools.partial(image_work, name, scale.batch) for name in scale.images})
    for name in scale.images:
        yield Task(dict(tower=name, batch=scale.batch), functools.partial(measure, scale, works, name))


def measure(scale: Scale, works: Ahead, name: str) -> Iterator[Row]:
    """Of one tower."""
    measured = works[name].measured
    rate = dict(per_second=scale.batch / measured["ms"] * 1e3)
    yield rate | measured | of_peak(scale, scale.batch * flops.image_flops(SIZES[name]), measured["ms"])
