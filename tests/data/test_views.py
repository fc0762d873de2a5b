"""Pixels read ahead by threads: in order, each once, and the same whatever reads them."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.data import views as pixels
from pini_jax.data.datasets.records import Record
from pini_jax.data.transforms import Augment

CLIP = Preprocessing(size=16, crop=16)


def jpeg(seed):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(noise).resize((120, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


RECORDS = tuple(Record(f"images/{i}", jpeg(i), 0) for i in range(13))


def views(images, size, threads, augment=Augment()):  # noqa: B008, frozen
    def view(i):
        time.sleep(0.002 * (i % 3))  # the threads overtake each other
        return pixels.view_pixels(RECORDS[i], CLIP, augment, 1, 2, i)

    return list(pixels.batches(view, images, size, threads))


@pytest.mark.parametrize("augment", [Augment(), None], ids=["training", "evaluation"])
def test_pixels_are_the_same_whatever_the_threads_and_the_batch_size(augment):
    expected = [pixels.view_pixels(RECORDS[i], CLIP, augment, 1, 2, i) for i in range(13)]
    for size, threads in [(1, 1), (4, 1), (4, 2), (5, 7), (13, 3), (64, 2)]:
        read = views(range(13), size, threads, augment)
        assert [len(batch) for batch in read] == [size] * (13 // size) + [13 % size] * (13 % size > 0)
        np.testing.assert_array_equal(np.concatenate(read), expected)


def test_reading_goes_on_anywhere():
    """What image i looks like does not depend on where the reading began."""
    whole = np.concatenate(views(range(13), 4, 2))
    np.testing.assert_array_equal(np.concatenate(views([9, 3, 3, 12], 3, 2)), whole[[9, 3, 3, 12]])


def test_the_next_batches_are_read_while_the_tower_works():
    read, two_batches = [], threading.Event()

    def view(i):
        read.append(i)
        if len(read) == 8 + 4:
            two_batches.set()
        return np.zeros(1)

    batches = pixels.batches(view, range(100), 4, 2)
    next(batches)
    assert two_batches.wait(timeout=10)
    batches.close()
    time.sleep(0.05)
    assert len(read) < 20  # and no further


def test_an_error_comes_out_as_it_was():
    def view(i):
        if i == 6:
            raise KeyError("six")
        return np.zeros(1)

    batches = pixels.batches(view, range(10), 4, 2)
    assert len(next(batches)) == 4
    with pytest.raises(KeyError, match="six"):
        next(batches)


def test_views_are_read_by_number_and_normalised():
    """The same whether they are read when they are asked for, or were read before."""
    of = pixels.Views(RECORDS, CLIP, Augment(), seed=1, view=2)
    ids = np.array([9, 3, 3, 12])
    expected = [CLIP.normalise(pixels.view_pixels(RECORDS[i], CLIP, Augment(), 1, 2, i)) for i in ids]
    np.testing.assert_allclose(of[ids], expected, atol=1e-6)
    held = of.held()
    assert len(held) == len(of) == 13 and held.kept.dtype == np.uint8
    np.testing.assert_array_equal(held[ids], of[ids])
