"""A part of a resized image without the rest of it: what PIL's resize and a crop give, bit for bit.

An image of 20000 x 1 pixels, resized to a height of 224, has a thousand million of them, of which a crop keeps
fifty thousand. PIL can resize a box of the source, but it keeps the box in single precision: pixels would differ.

Resizing is separable. Pixel i of an enlarged axis is the sum over source pixels j of w_i(j) s(j), where
w_i(j) = f(j + 1/2 - c_i) / sum_j f(j + 1/2 - c_i) around c_i = (i + 1/2) old / new. PIL goes along rows, then
along columns, with weights in multiples of 2^-22, and rounds to 8 bits after each. (Where one axis shrinks, its
versions differ in which comes first.)

Source: the resampling of Pillow, https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

BITS = 22  # of a weight's fraction


class Filter(NamedTuple):
    """A kernel, and half the width outside of which it is zero."""

    kernel: Callable[[np.ndarray], np.ndarray]
    support: float


def _bilinear(x: Float[np.ndarray, "n w"]) -> Float[np.ndarray, "n w"]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _bicubic(x: Float[np.ndarray, "n w"]) -> Float[np.ndarray, "n w"]:
    """Keys' cubic convolution with a = -1/2."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


FILTERS = {Image.Resampling.BILINEAR: Filter(_bilinear, 1.0), Image.Resampling.BICUBIC: Filter(_bicubic, 2.0)}


class _Taps(NamedTuple):
    """For each of n pixels of an axis, from which w pixels of the source it comes, and with what weights."""

    places: Int[np.ndarray, "n w"]
    weights: Int[np.ndarray, "n w"]


def _taps(old: int, new: int, start: int, stop: int, filter: Filter) -> _Taps:
    """Pixels start to stop of an axis of `old` pixels that is enlarged to `new`."""
    centre = (np.arange(start, stop)[:, None] + 0.5) * (old / new)
    first = np.maximum((centre - filter.support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + filter.support + 0.5).astype(np.int64), old)
    places = first + np.arange(2 * math.ceil(filter.support) + 1)
    raw = np.where(places < last, filter.kernel(places - centre + 0.5), 0.0)
    # One after the other, as PIL adds: a sum in another order rounds otherwise.
    shares = raw / np.cumsum(raw, axis=1)[:, -1:] * (1 << BITS)
    weights = np.trunc(shares + np.where(shares < 0, -0.5, 0.5)).astype(np.int64)
    return _Taps(np.minimum(places, old - 1), weights)


def _apply(pixels: UInt8[np.ndarray, "h w 3"], taps: _Taps) -> UInt8[np.ndarray, "n w 3"]:
    """The sums along the first axis."""
    total = np.full((len(taps.places), *pixels.shape[1:]), 1 << (BITS - 1), np.int64)
    for places, weights in zip(taps.places.T, taps.weights.T, strict=True):
        total += pixels[places] * weights[:, None, None]
    return np.clip(total >> BITS, 0, 255).astype(np.uint8)


def resized_part(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], filter: Filter
) -> UInt8[np.ndarray, "h w 3"]:
    """image.resize(size, filter).crop(box) of an RGB image, in memory and time for the box and what it shows.

    Args:
        size: at least that of the image, in both directions.
        box: left, upper, right, lower, within the resized image.
    """
    left, upper, right, lower = box
    columns = _taps(image.width, size[0], left, right, filter)
    rows = _taps(image.height, size[1], upper, lower, filter)
    corner = int(columns.places.min()), int(rows.places.min())
    shown = np.asarray(image.crop((*corner, int(columns.places.max()) + 1, int(rows.places.max()) + 1)))
    along_rows = _apply(shown.swapaxes(0, 1), columns._replace(places=columns.places - corner[0]))
    return _apply(along_rows.swapaxes(0, 1), rows._replace(places=rows.places - corner[1]))
