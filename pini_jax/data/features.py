"""Image features: encoded in batches, and kept on disk under everything that shaped them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import PIL
from jaxtyping import Array, Float, UInt8

import pini_jax
from pini_jax import mesh as meshes
from pini_jax.clip.pretrained import Pretrained
from pini_jax.data import transforms
from pini_jax.data.records import Record, open_image
from pini_jax.runtime import cache_folder

BATCH = 64
LOG = logging.getLogger(__name__)
Encode = Callable[[Float[np.ndarray, "b h w 3"]], Float[Array, "b e"]]


def make_encoder(clip: Pretrained, mesh: jax.sharding.Mesh) -> Encode:
    """The frozen image tower over batches of pixels, split over the devices: [b h w 3] -> [b e].

    Its parameters stay where `pretrained.load` has put them.
    """
    forward = jax.jit(lambda theta, pixels: clip.image_tower.apply({"params": theta}, pixels))

    def encode(pixels: Float[np.ndarray, "b h w 3"]) -> Float[Array, "b e"]:
        padding = -len(pixels) % meshes.batch_shards(mesh)
        padded = np.concatenate([pixels, pixels[:1].repeat(padding, axis=0)]) if padding else pixels
        return forward(clip.theta["image"], meshes.shard(mesh, padded))[: len(pixels)]

    return encode


def view_pixels(
    record: Record, clip: Pretrained, augment: transforms.Augment | None, seed: int, view: int, index: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The evaluation view of an image (`augment` None), or training view number `view`."""
    image = open_image(record)
    if augment is None:
        return transforms.test_view(image, clip.preprocessing)
    return transforms.train_view(image, clip.preprocessing, augment, seed, view, index)


def features(
    records: Sequence[Record],
    clip: Pretrained,
    encode: Encode,
    augment: transforms.Augment | None = None,
    seed: int = 0,
    view: int = 0,
) -> Float[np.ndarray, "b e"]:
    """Features of one view of every record, from the cache where it holds them.

    The name of a cache entry is a hash of the weights, the pre-processing, the view, the images and the versions
    that computed it; its content is checked by a second hash when read.
    """
    view_key = None if augment is None else (dataclass_key(augment), seed, view)
    key = {
        "weights": clip.fingerprint,
        "dtype": str(np.dtype(clip.image_tower.dtype)),
        "preprocessing": dataclass_key(clip.preprocessing),
        "view": view_key,
        "images": [(record.id, _stamp(record)) for record in records],
        "versions": (pini_jax.__version__, PIL.__version__, jax.__version__, jax.default_backend()),
    }
    path = cache_folder() / "features" / f"{_hash(json.dumps(key).encode())}.npz"
    cached = _read(path)
    if cached is not None:
        return cached
    computed = _compute(records, clip, encode, augment, seed, view)
    _write(path, computed)
    return computed


def dataclass_key(value: object) -> list:
    """The fields of a dataclass in order, as JSON knows them."""
    return [list(x) if isinstance(x, tuple) else x for x in vars(value).values()]


def _stamp(record: Record) -> str | tuple[int, int]:
    """What changes when an image does: a hash of bytes, size and time of a file, or where bytes come from."""
    if isinstance(record.source, bytes):
        return _hash(record.source)
    if callable(record.source):
        return repr(record.source)
    stat = record.source.stat()
    return stat.st_size, stat.st_mtime_ns


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _compute(records, clip, encode, augment, seed, view) -> Float[np.ndarray, "b e"]:
    batch = min(BATCH, len(records))

    def read(index: int) -> UInt8[np.ndarray, "h w 3"]:
        # The last batch is padded with the last image.
        return view_pixels(records[min(index, len(records) - 1)], clip, augment, seed, view, index)

    results = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(records), batch):
            pixels = np.stack(list(pool.map(read, range(start, start + batch))))
            results.append(np.asarray(encode(clip.preprocessing.normalise(pixels))))
    return np.concatenate(results)[: len(records)]


def _read(path: Path) -> Float[np.ndarray, "b e"] | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            array, digest = file["features"], str(file["sha256"])
        if _hash(array.tobytes()) == digest:
            return array
        reason = "its content does not match its hash"
    except Exception as error:  # a damaged zip raises whatever its bytes lead to
        reason = str(error)
    LOG.warning("cached features %s are damaged (%s) and are computed again", path, reason)
    return None


def _write(path: Path, array: Float[np.ndarray, "b e"]) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.savez(file, features=array, sha256=_hash(array.tobytes()))
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        LOG.warning("features could not be cached (%s); the run goes on without", error)
