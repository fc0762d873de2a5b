"""Decoding of images, and the hash that names a list of them."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from pini_jax.data.records import Record, list_hash, open_image
from pini_jax.errors import InputError


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))


def test_bytes_and_files_decode_alike(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(encoded(COLOURS))
    for source in (file, encoded(COLOURS)):
        np.testing.assert_array_equal(np.asarray(open_image(Record("a", source, 0))), np.asarray(COLOURS))


def test_grey_becomes_three_channels():
    image = open_image(Record("a", encoded(COLOURS.convert("L")), 0))
    assert image.mode == "RGB" and image.size == (6, 4)


def test_images_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the file lies on its side
    assert open_image(Record("a", encoded(COLOURS, exif=exif), 0)).size == (4, 6)


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", encoded(COLOURS)[:60], encoded(COLOURS.resize((64, 64)), "JPEG")[:500]],
    ids=["empty", "text", "half a PNG", "half a JPEG"],
)
def test_an_unreadable_image_is_named(tmp_path, content):
    file = tmp_path / "image"
    file.write_bytes(content)
    for source in (file, content):
        with pytest.raises(InputError, match="image cats/7.png cannot be read"):
            open_image(Record("cats/7.png", source, 0))


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match="image cats/7.png cannot be read"):
        open_image(Record("cats/7.png", tmp_path / "none.png", 0))


def test_list_hash_is_over_ids_and_labels_in_order():
    a, b = Record("a", b"", 0), Record("b", b"", 1)
    assert list_hash([a, b]) == hashlib.sha256(b"a\t0\nb\t1\n").hexdigest()
    hashes = {list_hash(x) for x in ([], [a], [b], [a, b], [b, a], [a, b._replace(label=2)])}
    assert len(hashes) == 6
    assert list_hash([a, b]) == list_hash([a._replace(source=b"elsewhere"), b])
