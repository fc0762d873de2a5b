"""What a dataset is: labelled images in three splits."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from pini_jax.data.transforms import to_rgb
from pini_jax.errors import InputError


class Record(NamedTuple):
    """One labelled image.

    Attributes:
        id: name within the dataset, the same on every machine (a relative path, say).
        source: a path, or the bytes of an image file.
        label: 0 to num_classes - 1.
    """

    id: str
    source: Path | bytes
    label: int


class Dataset(NamedTuple):
    """Three splits over the same classes; `class_names[label]` is the name of a label."""

    name: str
    class_names: tuple[str, ...]
    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]


def open_image(record: Record) -> Image.Image:
    """Decodes a record, upright and in RGB, as the table of `pini_jax.data.transforms` says.

    PIL's guard against decompression bombs holds: it warns above 89 million pixels and refuses above 178 million.

    Raises:
        InputError: the image is missing, or cannot be decoded, or its values do not say what is white.
    """
    source = io.BytesIO(record.source) if isinstance(record.source, bytes) else record.source
    try:
        with Image.open(source) as image:
            return to_rgb(image)
    except UnidentifiedImageError:  # its own words would name an object in memory
        raise InputError(f"image {record.id} cannot be read (no kind of image that PIL knows)") from None
    except Exception as error:  # a damaged file makes PIL's readers raise anything at all
        reason = str(error) or type(error).__name__
        raise InputError(f"image {record.id} cannot be read ({reason})") from None


def list_hash(records: Sequence[Record]) -> str:
    """SHA-256 over ids and labels, in order: names a split or a selection."""
    lines = "".join(f"{record.id}\t{record.label}\n" for record in records)
    return hashlib.sha256(lines.encode()).hexdigest()
