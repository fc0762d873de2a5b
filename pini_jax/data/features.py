"""Image features: encoded in batches, and kept on disk under everything that shaped them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

import pini_jax
from pini_jax.clip.pretrained import Pretrained
from pini_jax.core import mesh as meshes
from pini_jax.core import progress, stop
from pini_jax.core.errors import InputError
from pini_jax.core.paths import cache_folder
from pini_jax.core.wording import listed
from pini_jax.data import cache, npz, transforms
from pini_jax.data.datasets import formats
from pini_jax.data.datasets.packs import has_direction
from pini_jax.data.datasets.records import Record, stamp
from pini_jax.data.datasets.unreadable import refuse_unreadable
from pini_jax.data.views import batches, view_pixels

BATCH = 64
CHUNK = 32  # batches: what an interrupted run computes twice at most
LOG = logging.getLogger(__name__)
# Is told all files of some features, and how that of a number is made: it may fetch some, or make them; None where
# those that are there already are all that is wanted.
Share = Callable[[Sequence[Path], Callable[[int], None] | None], None]
_share: ContextVar[Share] = ContextVar("share", default=lambda files, make: None)
Encode = Callable[[Float[np.ndarray, "b h w 3"]], Float[Array, "b e"]]


@contextlib.contextmanager
def shared_by(share: Share) -> Iterator[None]:
    """Features that are needed within the block are those of others, too."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def make_encoder(clip: Pretrained, mesh: jax.sharding.Mesh) -> Encode:
    """The frozen image tower over batches of pixels, split over the devices: [b h w 3] -> [b e].

    Its parameters stay where `load_clip` has put them.
    """
    forward = jax.jit(
        lambda theta, pixels: clip.image_tower.apply({"params": theta}, pixels),
        out_shardings=meshes.replicated(mesh),
    )

    def encode(pixels: Float[np.ndarray, "b h w 3"]) -> Float[Array, "b e"]:
        whole = _fill_up(pixels, meshes.batch_shards(mesh))
        return forward(clip.theta["image"], meshes.shard(mesh, whole))[: len(pixels)]

    return encode


def _fill_up(pixels: Float[np.ndarray, "b h w 3"], multiple: int) -> Float[np.ndarray, "B h w 3"]:
    """As many images as are a multiple of `multiple`, the first one again and again at the end."""
    padding = -len(pixels) % multiple
    return np.concatenate([pixels, pixels[:1].repeat(padding, axis=0)]) if padding else pixels


def features(
    records: Sequence[Record],
    clip: Pretrained,
    encode: Encode,
    augment: transforms.Augment | None = None,
    seed: int = 0,
    view: int = 0,
) -> Float[np.ndarray, "b e"]:
    """Features of one view of every record, from the cache where it holds them.

    They are kept in chunks, each written as soon as it is encoded: what was interrupted goes on where it was.
    Their folder is named by a hash of the weights, the pre-processing, the view, the images and the versions of
    what computes them; every chunk is checked by a second hash when read.

    Raises:
        InputError: an image is missing or cannot be decoded, or its features are zero or not finite.
    """
    batch = _batch(records)
    chunks = _chunks(records, clip, None if augment is None else (augment, seed, view))

    def pixels(index: int) -> Float[np.ndarray, "h w 3"]:
        return clip.preprocessing.normalise(
            view_pixels(records[index], clip.preprocessing, augment, seed, view, index)
        )

    def make(number: int) -> None:
        for chunk, array in _compute([chunks[number]], batch, pixels, encode):
            if has_direction(array).all():
                _write(chunk, array)

    with _naming_unreadable(records):
        if chunks:
            _share.get()([chunk.path for chunk in chunks], make)
    read = [_read(chunk) for chunk in chunks]
    # Several processes compute together what any of them lacks.
    known = meshes.all_processes([array is not None for array in read])
    pairs = zip(chunks, read, known, strict=True)
    arrays = {chunk: array for chunk, array, held in pairs if held and array is not None}
    missing = [chunk for chunk in chunks if chunk not in arrays]
    if arrays and missing:
        LOG.info("of %d images %d are in the cache", len(records), sum(map(len, arrays.values())))
    keeping = True
    with _naming_unreadable(records):
        for chunk, array in _compute(missing, batch, pixels, encode):
            keeping = keeping and bool(has_direction(array).all()) and _write(chunk, array)
            arrays[chunk] = array
    whole = np.concatenate([np.zeros((0, clip.embed_dim), np.float32), *(arrays[chunk] for chunk in chunks)])
    if bad := [record.id for record, good in zip(records, has_direction(whole), strict=True) if not good]:
        raise InputError(f"the image tower's features are zero or not finite, of: {listed(bad)}")
    return whole


@contextlib.contextmanager
def _naming_unreadable(records: Sequence[Record]) -> Iterator[None]:
    """An error within the block names all images that cannot be read, not the first alone."""
    try:
        yield
    except InputError:
        refuse_unreadable(records)
        raise


def cached(records: Sequence[Record], clip: Pretrained) -> bool:
    """Whether the features of all evaluation views are in the cache, or others have them: these are fetched."""
    files = [chunk.path for chunk in _chunks(records, clip, None)]
    if files:
        _share.get()(files, None)
    return all(file.exists() for file in files)


class _Chunk(NamedTuple):
    """The records from start to stop, and where their features are kept."""

    entry: Path
    start: int
    stop: int

    @property
    def path(self) -> Path:
        return self.entry / f"{self.start:09d}.npz"

    def digest(self, array: np.ndarray) -> str:
        """A hash of the features, and of what they are features of."""
        what = f"{self.entry.name} {self.start} {self.stop} {array.dtype} {array.shape}"
        return _hash(what.encode() + array.tobytes())


def _batch(records: Sequence[Record]) -> int:
    return min(BATCH, len(records)) or 1


def _chunks(
    records: Sequence[Record], clip: Pretrained, view: tuple[transforms.Augment, int, int] | None
) -> list[_Chunk]:
    entry, size = cache_folder() / "features" / _key(records, clip, view), _batch(records) * CHUNK
    return [_Chunk(entry, start, min(start + size, len(records))) for start in range(0, len(records), size)]


def _compute(
    chunks: Sequence[_Chunk], batch: int, pixels: Callable[[int], np.ndarray], encode: Encode
) -> Iterator[tuple[_Chunk, Float[np.ndarray, "b e"]]]:
    """The features of every chunk. Images are read through all of them without a stop, ahead of the tower."""
    images = [index for chunk in chunks for index in range(chunk.start, chunk.stop)]
    with (
        contextlib.closing(batches(pixels, images, batch)) as read,
        progress.bar(total=len(images), unit="image", desc="encoding", delay=2) as bar,
    ):
        encoded = _encode_all(read, batch, encode)
        for chunk in chunks:
            parts: list[np.ndarray] = []
            # Every chunk is of whole batches, but for the last of all.
            while sum(map(len, parts)) < chunk.stop - chunk.start:
                stop.raise_if_requested()
                parts.append(next(encoded))
                bar.update(len(parts[-1]))
            yield chunk, np.concatenate(parts)


def _encode_all(read: Iterable[np.ndarray], batch: int, encode: Encode) -> Iterator[Float[np.ndarray, "b e"]]:
    """Features of every batch; the device has the next one before it is asked for the last."""
    waiting: deque[Array] = deque()
    for pixels in read:
        # One shape for all, so that the tower is compiled once.
        waiting.append(encode(_fill_up(pixels, batch))[: len(pixels)])
        if len(waiting) > 1:
            yield np.asarray(waiting.popleft())
    yield from map(np.asarray, waiting)


def _key(records: Sequence[Record], clip: Pretrained, view: tuple[transforms.Augment, int, int] | None) -> str:
    """A hash of all that shapes the features."""
    key = {
        "weights": clip.fingerprint,
        "dtype": str(np.dtype(clip.image_tower.dtype)),
        "preprocessing": dataclass_key(clip.preprocessing),
        "view": view and (dataclass_key(view[0]), *view[1:]),
        "images": [(record.id, stamp(record)) for record in records],
        "versions": (pini_jax.__version__, formats.VERSION, jax.__version__, jax.default_backend()),
    }
    return _hash(json.dumps(key).encode())


def dataclass_key(value: object) -> list[Any]:
    """The fields of a dataclass in order, as JSON knows them."""
    return [list(x) if isinstance(x, tuple) else x for x in vars(value).values()]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(chunk: _Chunk) -> Float[np.ndarray, "b e"] | None:
    if not chunk.path.exists():
        return None
    try:
        content = npz.read_npz(chunk.path, ("features", "sha256"))
        if chunk.digest(content["features"]) == str(content["sha256"]):
            return content["features"]
        reason = "its content does not match its hash"
    except KeyError as error:
        reason = f"it lacks {error}"
    except ValueError as error:
        reason = str(error)
    LOG.warning("cached features %s are damaged (%s) and are computed again", chunk.path, reason)
    return None


def _write(chunk: _Chunk, array: Float[np.ndarray, "b e"]) -> bool:
    """Whether it could be written."""
    file = io.BytesIO()
    np.savez(file, features=array, sha256=chunk.digest(array))
    return cache.keep(chunk.path, file.getvalue())
