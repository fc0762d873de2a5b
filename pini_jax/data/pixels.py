"""Views of images as pixels: decoded and augmented by Grain's threads, ahead of the image tower.

Threads, not processes: PIL lets go of Python's lock where it decodes and resizes, and pixels need no copy from one
process to another.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.data import transforms
from pini_jax.data.records import Record, open_image, read

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
        return transforms.test_view(open_image(record), preprocessing)
    return read(record, lambda file: transforms.train_view(file, preprocessing, augment, seed, view, index))


def batches(
    view: Callable[[int], Float[np.ndarray, "h w 3"]], images: Sequence[int], size: int, threads: int = THREADS
) -> Generator[Float[np.ndarray, "b h w 3"], None, None]:
    """[view(i) for i in images] in order, `size` at a time, the last batch shorter; two batches are read ahead.

    What `view` raises is raised here.
    """
    import grain  # half a second, and only what reads images needs it

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * size)
    dataset = grain.MapDataset.source(images).map(view).to_iter_dataset(options).batch(size)
    with contextlib.closing(iter(dataset)) as iterator:
        yield from iterator
