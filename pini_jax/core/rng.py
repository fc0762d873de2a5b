"""Named streams of random keys, all derived from one root."""

from __future__ import annotations

import zlib

import jax
import numpy as np
from jax.typing import ArrayLike


def root(seed: ArrayLike) -> jax.Array:
    """The key that every stream of a run is derived from."""
    return jax.random.key(seed)


def stream(key: jax.Array, name: str, *indices: jax.Array | int) -> jax.Array:
    """fold_in(... fold_in(key, crc32(name)) ..., index): no key is split and carried along.

    Args:
        key: a typed key.
        name: what the numbers are for, such as "train".
        indices: step, draw or image numbers; may be traced.
    """
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key


def host_stream(seed: int, name: str, *indices: int) -> np.random.Generator:
    """A stream for numbers drawn on the host: NumPy's generator of (crc32(name), seed, *indices)."""
    return np.random.default_rng((zlib.crc32(name.encode()), seed, *indices))
