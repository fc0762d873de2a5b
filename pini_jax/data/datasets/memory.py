"""Images and features that a program holds itself: datasets without files, named by a hash of all that is in them.

with memory.held(name, data):
    ...  # `dataset=name` is this data
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from jaxtyping import Num
from PIL import Image

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import findings, packs
from pini_jax.data.datasets.findings import Findings
from pini_jax.data.datasets.packs import Pack
from pini_jax.data.datasets.records import Dataset, Record, read_image
from pini_jax.data.transforms import to_rgb

HASH = 16  # digits in a name
# A path, the bytes of an image file, a picture of PIL's, or uint8 values [h w 3].
Picture = str | Path | bytes | Image.Image | np.ndarray
# Of a thread, so that what others have under the same name is not taken away with it.
_held: ContextVar[Mapping[str, Dataset | Pack]] = ContextVar("held", default={})  # noqa: B039, never changed


@contextlib.contextmanager
def held(name: str, data: Dataset | Pack) -> Iterator[None]:
    """Has a dataset under its name, until the block ends."""
    token = _held.set({**_held.get(), name: data})
    try:
        yield
    finally:
        _held.reset(token)


def make_record(picture: Picture, number: int, label: int = -1) -> Record:
    """The record of an image that a program gives, called by its path or its number.

    An array or a picture is the same as a lossless file of its pixels.
    """
    if isinstance(picture, (str, Path)):
        return Record(str(picture), Path(picture), label)
    if isinstance(picture, bytes):
        return Record(f"number {number}", picture, label)
    return Record(f"number {number}", _decoded(picture, f"number {number}"), label)


def _decoded(picture: Image.Image | np.ndarray, name: str) -> Image.Image:
    """In RGB and upright.

    Raises:
        InputError: it is none, or `to_rgb` refuses it.
    """
    if not isinstance(picture, Image.Image):
        pixels = np.asarray(picture)
        if (
            pixels.dtype != np.uint8
            or pixels.shape[2:] not in ((), (3,), (4,))
            or not pixels.size
            or pixels.ndim < 2
        ):
            what = f"{pixels.dtype}{[*pixels.shape]}"
            raise InputError(f"image {name} is {what}: paths, PIL images and uint8 arrays [h w 3] are read")
        picture = Image.fromarray(pixels)
    rgb = read_image(Record(name, picture, -1), to_rgb)
    rgb.info.clear()  # what it says of orientation and transparency has been done
    return rgb


def image_dataset(pictures: Sequence[Picture], labels: Sequence[int], class_names: Sequence[str]) -> Dataset:
    """A dataset of training images alone, in their order; one that comes again counts again.

    Raises:
        InputError: what is given is no image.
    """
    made = [
        make_record(picture, i, label) for i, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    ]
    repeated = len({record.id for record in made}) < len(made)
    records = [record._replace(id=f"{i}: {record.id}") if repeated else record for i, record in enumerate(made)]
    digest = hashlib.sha256(json.dumps([*class_names]).encode())
    for record in records:
        digest.update(f"{record.label} {_hash(record)} ".encode())
    return Dataset(f"memory:{digest.hexdigest()[:HASH]}", tuple(class_names), tuple(records), (), ())


def feature_dataset(
    features: Num[np.ndarray, "b e"],
    labels: Sequence[int],
    class_names: Sequence[str],
    text: Num[np.ndarray, "c e"] | None,
    logit_scale: float,
) -> Pack:
    """A pack of training images alone; the features become of unit norm. A text of None is not known.

    Raises:
        InputError: features are zero or not finite.
    """
    given = {"X": features} | ({} if text is None else {"text_features": text})
    if problems := [problem for key, x in given.items() for problem in packs.unusable(key, x)]:
        raise InputError("; ".join(problems))
    unit = {key: packs.as_unit(x) for key, x in given.items()}
    digest = hashlib.sha256(json.dumps([[*class_names], [*labels], logit_scale]).encode())
    for x in unit.values():
        digest.update(x.tobytes())
    records = tuple(Record(str(i), b"", label) for i, label in enumerate(labels))
    name = f"memory_features:{digest.hexdigest()[:HASH]}"
    dataset = Dataset(name, tuple(class_names), records, (), ())
    images = {record.id: feature for record, feature in zip(records, unit["X"], strict=True)}
    found = Findings(dataset, (*findings.class_problems(dataset),))
    return Pack(found, images, unit.get("text_features"), logit_scale, digest.hexdigest())


def held_images(name: str) -> Findings:
    """The images that are held under a name.

    Raises:
        InputError: there are none.
    """
    dataset = _find(name)
    assert isinstance(dataset, Dataset)
    return Findings(dataset, (*findings.class_problems(dataset), *findings.name_problems(dataset.class_names)))


def find_pack(name: str) -> Pack:
    """The features that are held under a name.

    Raises:
        InputError: there are none.
    """
    pack = _find(name)
    assert isinstance(pack, Pack)
    return pack


def _find(name: str) -> Dataset | Pack:
    if name not in (known := _held.get()):
        raise InputError(f"dataset {name!r} lay in the memory of a program: fit the classifier there again")
    return known[name]


def _hash(record: Record) -> str:
    """Of the content, so that a file may be moved, and copied."""
    source = record.source() if callable(record.source) else record.source
    if isinstance(source, Image.Image):
        source = f"{source.size}".encode() + source.tobytes()
    if isinstance(source, Path):
        try:
            source = source.read_bytes()
        except OSError:
            source = b""  # decoding it will say why
    return hashlib.sha256(source).hexdigest()
