"""The embedded default: 1,797 real handwritten digits of 8x8 pixels.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository (CC BY 4.0), in the
order of `sklearn.datasets.load_digits`.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from pini_jax.core.paths import ASSETS
from pini_jax.data.datasets.records import Dataset, Record

IMAGES = ASSETS / "digits.npz"  # `images` [1797 8 8], ink from 0 to 16, and `labels` [1797]
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Fractions of every class that go to training and validation; the rest, 56 %, is the test set.
TRAIN, VAL = 0.30, 0.14


def load_digits() -> Dataset:
    """The digits in a fixed, stratified split: each class in the order of its records' SHA-256, then cut."""
    with np.load(IMAGES) as file:
        images, labels = file["images"], file["labels"]
    splits: tuple[list[Record], list[Record], list[Record]] = ([], [], [])
    for label in range(len(CLASS_NAMES)):
        indices = np.flatnonzero(labels == label)
        records = [Record(f"digits/{i:04d}", _png(images[i]), label) for i in indices]
        records.sort(key=lambda record: hashlib.sha256(record.id.encode()).hexdigest())
        first, second = round(TRAIN * len(records)), round((TRAIN + VAL) * len(records))
        for split, part in zip(splits, (records[:first], records[first:second], records[second:]), strict=True):
            split.extend(part)
    train, val, test = (tuple(sorted(split)) for split in splits)
    return Dataset("digits", CLASS_NAMES, train, val, test)


def _png(image: np.ndarray) -> bytes:
    """Encodes ink levels 0 to 16 as an 8-bit greyscale image."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
