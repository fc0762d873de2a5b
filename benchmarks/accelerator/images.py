"""The image tower forwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import flops
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.work import Row, Work, of_peak, tower_dtype, work
from pini_jax.clip import towers


def image_work(name: str, batch: int) -> Work:
    """A batch of pixels through the tower, with random weights."""
    sizes, dtype = SIZES[name], tower_dtype()
    tower, side = towers.image_tower(sizes, dtype), sizes.image.image_size
    pixels = jax.random.normal(jax.random.key(0), (batch, side, side, 3))
    theta = jax.jit(tower.init)(jax.random.key(0), pixels[:1])["params"]
    theta["blocks"] = jax.tree.map(lambda x: x.astype(dtype), theta["blocks"])
    return forwards(tower, theta, pixels)


def forwards(tower: towers.ImageTower, theta: Any, pixels: Any) -> Work:
    """Features of the pixels, un-normalised."""
    return work(lambda theta, pixels: tower.apply({"params": theta}, pixels), theta, pixels)


def measure(scale: Scale) -> Iterator[Row]:
    """Images per second by tower."""
    for name in scale.images:
        measured = image_work(name, scale.batch).measured
        rate = dict(tower=name, batch=scale.batch, per_second=scale.batch / measured["ms"] * 1e3)
        yield rate | measured | of_peak(scale, scale.batch * flops.image_flops(SIZES[name]), measured["ms"])
