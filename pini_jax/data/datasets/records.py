"""What a dataset is: labelled images in three splits."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError

from pini_jax.core import copies, files
from pini_jax.core.errors import InputError
from pini_jax.core.wording import plain
from pini_jax.data import limits
from pini_jax.data.datasets.formats import FORMATS, LEFT_OUT, suffix
from pini_jax.data.transforms import to_rgb

T = TypeVar("T")

_ALONE = threading.Lock()  # for what takes most of the memory that one image may take


class Record(NamedTuple):
    """One labelled image.

    Attributes:
        id: name within the dataset, the same on every machine (a relative path, say).
        source: a path, the bytes of an image file, or what reads these bytes; or an image as `to_rgb` makes it.
        label: 0 to num_classes - 1.
    """

    id: str
    source: Path | bytes | Callable[[], bytes] | Image.Image
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

    Raises:
        InputError: the image is missing, cannot be decoded, has too many pixels, or does not say what is white.
    """
    return read_image(record, to_rgb)


def read_image(record: Record, decode: Callable[[Image.Image], T]) -> T:
    """The result of `decode` on the opened file, whose size PIL has read but not its pixels.

    Raises:
        InputError: as `open_image`.
    """
    try:
        source = record.source() if callable(record.source) else record.source
        if isinstance(source, Image.Image):
            return decode(source)
        if isinstance(source, Path):
            files.check(source)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            limits.check_scans(image)
            alone = image.width * image.height > limits.LARGE
            with _ALONE if alone else contextlib.nullcontext():
                return decode(image)
    except UnidentifiedImageError:  # its own words would name an object in memory
        reason = LEFT_OUT.get(suffix(record.id), "no kind of image that PIL knows")
        raise InputError(f"image {plain(record.id)} cannot be read ({reason})") from None
    except Exception as error:  # a damaged file makes PIL's readers raise anything at all
        reason = plain(error) or type(error).__name__
        raise InputError(f"image {plain(record.id)} cannot be read ({reason})") from None


def list_hash(records: Sequence[Record]) -> str:
    """SHA-256 over ids and labels, in order: names a split or a selection."""
    lines = "".join(f"{record.id}\t{record.label}\n" for record in records)
    return hashlib.sha256(lines.encode()).hexdigest()


def content_hash(records: Sequence[Record]) -> str:
    """SHA-256 over ids, labels and the bytes of every image, in order; a file of many images is read once.

    Raises:
        InputError: an image cannot be read.
    """
    known: dict[Path, str] = {}
    lines = []
    for record in records:
        digest = known.get(record.source) if isinstance(record.source, Path) else None
        digest = digest or _digest(record)
        if isinstance(record.source, Path):
            known[record.source] = digest
        lines.append(f"{record.id}\t{record.label}\t{digest}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def total_size(records: Sequence[Record]) -> int:
    """Bytes of all images, as far as they are known without reading any."""
    return sum(map(_size, records))


def _size(record: Record) -> int:
    if isinstance(record.source, bytes):
        return len(record.source)
    if isinstance(record.source, Path):
        with contextlib.suppress(OSError):  # reading it will say why
            return record.source.stat().st_size
    return 0


def _digest(record: Record) -> str:
    """SHA-256 of an image's file, or of its pixels where it has none."""
    source = record.source
    if isinstance(source, Image.Image):
        return hashlib.sha256(f"{source.size}".encode() + source.tobytes()).hexdigest()
    try:
        if isinstance(source, Path):
            files.check(source)
            with source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(source() if callable(source) else source).hexdigest()
    except (OSError, ValueError) as error:
        raise InputError(f"image {plain(record.id)} cannot be read ({plain(error)})") from None


def stamp(record: Record) -> str | tuple[str, int, int, int]:
    """Something that changes whenever an image does: a hash of its bytes; path, size and times of its file; or the
    place of its bytes.

    Of a copy from a bucket it is the same on every machine.
    """
    if isinstance(record.source, bytes | Image.Image):
        return _digest(record)
    if callable(record.source):
        return repr(record.source)
    if name := copies.name_of(record.source):
        return name
    try:
        stat = record.source.stat()
    except OSError:
        return ""  # reading it will say why
    # The time of the last change, which copying does not keep, and unpacking an archive neither.
    return str(record.source.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
