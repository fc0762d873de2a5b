"""Views of images as pixels: decoded and augmented by threads, ahead of the image tower.

Threads, not processes: PIL lets go of Python's lock where it decodes and resizes, and pixels need no copy from one
process to another.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int, UInt8

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.data import transforms
from pini_jax.data.datasets.records import Record, open_image, read_image

THREADS = min(32, os.cpu_count() or 1)


def view_pixels(
    record: Record,
    preprocessing: Preprocessing,
    augment: transforms.Augment | None,
    seed: int,
    view: int,
    index: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """The evaluation view of an image (`augment` None), or training view number `view`.

    Raises:
        InputError: the image is missing or cannot be decoded; the message names it.
    """
    if augment is None:
        return transforms.evaluation_view(open_image(record), preprocessing)
    return read_image(record, lambda file: transforms.train_view(file, preprocessing, augment, seed, view, index))


def batches(
    view: Callable[[int], Float[np.ndarray, "h w 3"]], images: Iterable[int], size: int, threads: int = THREADS
) -> Generator[Float[np.ndarray, "b h w 3"], None, None]:
    """[view(i) for i in images] in order, `size` at a time, the last batch shorter; two batches are read ahead.

    What `view` raises is raised here.
    """
    pool = ThreadPoolExecutor(threads)
    submitted = (pool.submit(view, image) for image in images)
    ahead = deque(itertools.islice(submitted, 2 * size))
    try:
        while ahead:
            batch: list[np.ndarray] = []
            while ahead and len(batch) < size:
                batch.append(ahead.popleft().result())
                ahead.extend(itertools.islice(submitted, 1))
            yield np.stack(batch)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class Views:
    """One view of every image: views[ids] reads those of these numbers, normalised [b h w 3].

    Attributes:
        augment, seed, view: as in `view_pixels`.
        kept: pixels that were read before.
    """

    records: Sequence[Record]
    preprocessing: Preprocessing
    augment: transforms.Augment | None = None
    seed: int = 0
    view: int = 0
    kept: UInt8[np.ndarray, "m h w 3"] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, ids: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b h w 3"]:
        return self.preprocessing.normalise(self._read(ids) if self.kept is None else self.kept[ids])

    def held(self) -> Views:
        """These views with all pixels read at once and kept in memory, one byte each."""
        return dataclasses.replace(self, kept=self._read(np.arange(len(self.records))))

    def _read(self, ids: Int[np.ndarray, "b"]) -> UInt8[np.ndarray, "b h w 3"]:
        def decoded(i: int) -> UInt8[np.ndarray, "h w 3"]:
            return view_pixels(self.records[i], self.preprocessing, self.augment, self.seed, self.view, i)

        return np.concatenate(list(batches(decoded, ids.tolist(), len(ids))))
