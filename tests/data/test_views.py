"""Pixels read ahead by threads: in order, each once, and the same whatever reads them."""

import io
import os
import struct
import threading
import time
import zlib

import bounds
import numpy as np
import pytest
from PIL import Image

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.core.errors import InputError
from pini_jax.data import limits
from pini_jax.data import views as pixels
from pini_jax.data.datasets.records import Record, open_image
from pini_jax.data.transforms import Augment

CLIP = Preprocessing(size=16, crop=16)
SLIVERS = [(1, 30_000), (30_000, 1), (1, 1 << 20), (1 << 20, 2)]


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


# ------------------------------------------------------------------------------------------------ hostile files


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, packed=b"", extra=b""):
    """A PNG file that says so of itself, with these data, and another chunk before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = header, extra, chunk(b"IDAT", packed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scans(number):
    """A progressive JPEG that goes over its pixels again and again, with 31 bytes each time."""
    content = saved(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    return content[:-2] + number * content[content.rindex(b"\xff\xda") : -2] + content[-2:]


def moving(kind, frames=100):
    first, *rest = (Image.new("RGB", (40, 30), (i % 255, 0, 0)) for i in range(frames))
    return saved(first, kind, save_all=True, append_images=rest)


ZEROS = zlib.compress(bytes(1 << 28), 1)  # 256 MB in 1


def black(width, height):
    return zlib.compress(bytes(height * (1 + 3 * width)), 1)


BLACK = black(4, 4)
REFUSED = {
    "too many pixels for PIL": (png(20000, 20000), "exceeds limit"),
    "too many pixels": (png(12000, 7000), "12000 x 7000 pixels, of which at most 67,108,864 are read"),
    "too long a side": (png(30, 1 << 21), "30 x 2097152 pixels"),
    "too many pixels of a rare format": (saved(Image.new("L", (3000, 3000)), "TGA"), "3000 x 3000 pixels"),
    "a GIF without a frame": (b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0;", "no kind of image"),
    "scans": (scans(400), "410 scans over 4000 x 4000 pixels"),
    "an EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no kind of image"),
    "cut off": (jpeg(0)[:-100], "truncated"),
    "nothing": (b"", "no kind of image"),
    "text that unpacks to much": (png(4, 4, BLACK, chunk(b"zTXt", b"a\0\0" + ZEROS)), "too large"),
    "a profile that unpacks to much": (png(4, 4, BLACK, chunk(b"iCCP", b"a\0\0" + ZEROS)), "too large"),
}
READ = {
    "data that unpack to much": png(4, 4, ZEROS),
    "a damaged EXIF": png(4, 4, BLACK, chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(60_000))),
    "a large profile": saved(Image.new("RGB", (40, 30)), "JPEG", icc_profile=bytes(10_000_000)),
    **{f"many frames of a {kind}": moving(kind) for kind in ("GIF", "WEBP", "PNG", "TIFF")},
    **{f"{width} x {height}": png(width, height, black(width, height)) for width, height in SLIVERS},
}


def view_of(content, augment):
    return pixels.view_pixels(Record("a.png", content, 0), Preprocessing(), augment, 0, 0, 0)


@pytest.mark.parametrize("augment", [Augment(), None], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_take_too_much_is_refused_in_one_line(kind, augment):
    content, words = REFUSED[kind]
    with bounds.bounded(memory=1 << 27, seconds=5), pytest.raises(InputError, match=words) as error:
        view_of(content, augment)
    assert str(error.value).startswith("image a.png cannot be read (")
    assert str(error.value).isprintable() and len(str(error.value)) < 300


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("augment", [Augment(), None], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", READ)
def test_what_looks_like_much_is_read(kind, augment):
    with bounds.bounded(memory=1 << 27, seconds=5):
        assert view_of(READ[kind], augment).shape == (224, 224, 3)


@pytest.mark.parametrize("augment", [Augment(), None], ids=["training", "evaluation"])
def test_a_photograph_of_too_many_pixels_is_read_at_half_the_scale(augment, monkeypatch):
    """As telephones take them."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    content = saved(Image.fromarray(noise).resize((640, 480)), "JPEG", quality=95)
    expected = view_of(content, augment).astype(int)
    monkeypatch.setitem(limits.PIXELS, "JPEG", 640 * 480 - 1)
    assert np.abs(view_of(content, augment) - expected).mean() < 2
    monkeypatch.setitem(limits.PIXELS, "JPEG", 10)
    if augment is None:
        with pytest.raises(InputError, match="320 x 240 pixels, of which at most 10 are read"):
            view_of(content, augment)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(InputError, match="is no regular file"):
            open_image(Record(name, tmp_path / name, 0))
