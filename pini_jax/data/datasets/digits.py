"""The embedded default: 1,797 real handwritten digits of 8x8 pixels, from scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, as bundled by
`sklearn.datasets.load_digits`.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from pini_jax.data.datasets.records import Dataset, Record

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Fractions of every class that go to training and validation; the rest, 56 %, is the test set.
TRAIN, VAL = 0.30, 0.14


def load() -> Dataset:
    """The digits in a fixed, stratified split: each class in the order of its records' SHA-256, then cut."""
    from sklearn.datasets import load_digits  # slow to import, and needed for this dataset only

    bunch = load_digits()
    splits: tuple[list[Record], list[Record], list[Record]] = ([], [], [])
    for label in range(len(CLASS_NAMES)):
        indices = np.flatnonzero(bunch.target == label)
        records = [Record(f"digits/{i:04d}", _png(bunch.images[i]), label) for i in indices]
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
