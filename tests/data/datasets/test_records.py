"""Decoding of images, and the hash that names a list of them."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.core.errors import InputError
from pini_jax.data import transforms
from pini_jax.data.datasets.records import Record, content_hash, list_hash, open_image, total_size


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


# ------------------------------------------------------------------------------------------------ kinds of files

PHOTO = Image.fromarray(np.random.default_rng(1).integers(0, 256, (37, 50, 3), np.uint8))
ALPHA = Image.fromarray(np.random.default_rng(2).integers(0, 256, (37, 50), np.uint8))
RGBA = Image.merge("RGBA", (*PHOTO.split(), ALPHA))
PALETTE = PHOTO.quantize(16)


def png(pixels, colour_type, depth=16, chunks=b""):
    """A PNG of kinds that PIL does not write. Colour types: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    chunks = chunk(b"tRNS", chunks) if chunks else b""
    return b"\x89PNG\r\n\x1a\n" + header + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DEEP = np.random.default_rng(3).integers(0, 1 << 16, (37, 50, 4), np.uint16)
KINDS = {
    "RGB PNG": encoded(PHOTO),
    "RGB JPEG": encoded(PHOTO, "JPEG"),
    "RGB JPEG without YCbCr": encoded(PHOTO, "JPEG", keep_rgb=True),
    "RGB TIFF": encoded(PHOTO, "TIFF"),
    "BMP": encoded(PHOTO, "BMP"),
    "PPM": encoded(PHOTO, "PPM"),
    "grey PNG": encoded(PHOTO.convert("L")),
    "grey JPEG": encoded(PHOTO.convert("L"), "JPEG"),
    "one bit, PNG": encoded(PHOTO.convert("1")),
    "one bit, TIFF": encoded(PHOTO.convert("1"), "TIFF"),
    "grey and alpha": encoded(RGBA.convert("LA")),
    "palette PNG": encoded(PALETTE),
    "palette GIF": encoded(PALETTE, "GIF"),
    "palette, a transparent colour": encoded(PALETTE, transparency=5),
    "palette, alphas": encoded(PALETTE, transparency=bytes(range(0, 256, 16))),
    "transparent GIF": encoded(PALETTE, "GIF", transparency=5),
    "animated GIF": encoded(PALETTE, "GIF", save_all=True, append_images=[PHOTO.rotate(180).quantize(16)]),
    "RGB, a transparent colour": encoded(PHOTO, transparency=PHOTO.getpixel((3, 4))),
    "grey, a transparent level": encoded(PHOTO.convert("L"), transparency=100),
    "one bit, white transparent": encoded(PHOTO.convert("1"), transparency=1),
    "RGBA PNG": encoded(RGBA),
    "RGBA TIFF": encoded(RGBA, "TIFF"),
    "RGBA ICO": encoded(RGBA, "ICO"),
    "two pages, TIFF": encoded(PHOTO, "TIFF", save_all=True, append_images=[PHOTO.rotate(180)]),
    "CMYK JPEG": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "CMYK TIFF": encoded(PHOTO.convert("CMYK"), "TIFF"),
    "LAB TIFF": encoded(Image.frombytes("LAB", PHOTO.size, PHOTO.tobytes()), "TIFF"),
    "16-bit RGB PNG": png(DEEP[..., :3], 2),
    "16-bit RGBA PNG": png(DEEP, 6),
    "16-bit grey and alpha": png(DEEP[..., :2], 4),
}
if features.check("webp"):
    KINDS["RGBA WebP"] = encoded(RGBA, "WEBP", lossless=True)
if features.check("jpg_2000"):
    KINDS["JPEG 2000"] = encoded(PHOTO, "JPEG2000")

CHECKPOINTS = {
    "CLIP": Preprocessing(size=30, crop=28),
    "SigLIP": Preprocessing(size=28, crop=28, mean=(0.5,) * 3, std=(0.5,) * 3, resample=2, squash=True),
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request):
    """Our pre-processing, and transformers' processor with the same settings."""
    transformers = pytest.importorskip("transformers")
    settings = CHECKPOINTS[request.param].to_hugging_face()
    return CHECKPOINTS[request.param], getattr(transformers, settings["image_processor_type"] + "Pil")(**settings)


def assert_same_view(checkpoint, source, their_image):
    """Our whole path from the bytes of a file, and transformers' from what it is given."""
    preprocessing, processor = checkpoint
    view = transforms.evaluation_view(open_image(Record("a", source, 0)), preprocessing)
    raw = processor(their_image, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"][0]
    np.testing.assert_array_equal(view, raw.transpose(1, 2, 0))
    theirs = processor(their_image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(preprocessing.normalise(view), theirs, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files_as_transformers(checkpoint, kind):
    assert_same_view(checkpoint, KINDS[kind], Image.open(io.BytesIO(KINDS[kind])))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")]
)
def test_turned_files_as_transformers_when_they_are_upright(checkpoint, mode, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(PALETTE if mode == "P" else RGBA.convert(mode), kind, exif=exif)
    assert_same_view(checkpoint, file, ImageOps.exif_transpose(Image.open(io.BytesIO(file))))


GREY = DEEP[..., 0]
GREYS = {
    "PNG": encoded(Image.fromarray(GREY)),
    "TIFF": encoded(Image.fromarray(GREY), "TIFF"),
    "TIFF, big-endian": encoded(Image.fromarray(GREY.astype(">u2")), "TIFF"),
    "PGM": b"P5 50 37 65535\n" + GREY.astype(">u2").tobytes(),
    "TIFF of 32 bits": encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
}
if features.check("jpg_2000"):
    GREYS["JPEG 2000"] = encoded(Image.fromarray(GREY), "JPEG2000")


@pytest.mark.parametrize("kind", GREYS)
def test_16_bit_greys_are_their_high_byte(checkpoint, kind):
    """As PIL reads the same levels from a colour PNG; its own conversion of greys shows nearly all as white."""
    high = np.asarray(open_image(Record("a", png(np.stack([GREY] * 3, axis=-1), 2), 0)))
    np.testing.assert_array_equal(high, np.stack([GREY >> 8] * 3, axis=-1))
    assert_same_view(checkpoint, GREYS[kind], Image.fromarray(high))


def pixels(source):
    return np.asarray(open_image(Record("a", source, 0)))


@pytest.mark.parametrize("kind", ["PNG", "PGM"])
def test_a_dark_16_bit_image_stays_dark(kind):
    dark = np.full((3, 4), 255, np.uint16)
    files = {"PNG": encoded(Image.fromarray(dark)), "PGM": b"P5 4 3 65535\n" + dark.astype(">u2").tobytes()}
    assert not pixels(files[kind]).any()


def test_a_transparent_16_bit_level_is_white():
    file = png(np.array([[0x1234, 0x1235]], np.uint16), 0, chunks=struct.pack(">H", 0x1234))
    np.testing.assert_array_equal(pixels(file), [[[255] * 3, [0x12] * 3]])


def test_a_turned_16_bit_image_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(
        pixels(encoded(Image.fromarray(GREY), exif=exif))[..., 0], np.rot90(GREY >> 8, k=-1)
    )


def test_wide_integers_that_fit_8_bits_stay_as_they_are():
    levels = np.array([[0, 7, 255]], np.int32)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(levels), "TIFF"))[..., 0], levels)


@pytest.mark.parametrize(
    "levels",
    [np.full((2, 2), 0.5, np.float32), np.full((2, 2), 70_000, np.int32), np.full((2, 2), -1, np.int32)],
    ids=["floats", "beyond 16 bits", "negative"],
)
def test_values_without_a_white_are_refused(levels):
    file = encoded(Image.fromarray(levels), "TIFF")
    with pytest.raises(InputError, match="image cats/7.tif cannot be read .*which value is white: save it with"):
        open_image(Record("cats/7.tif", file, 0))


# ------------------------------------------------------------------------------------------------ orientation


def test_images_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the file lies on its side
    assert open_image(Record("a", encoded(COLOURS, exif=exif), 0)).size == (4, 6)


@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish of another format", b"Exif\0\0II*\0", b"Exif\0\0"])
def test_a_damaged_exif_says_nothing(exif):
    file = encoded(COLOURS, exif=exif)
    np.testing.assert_array_equal(pixels(file), np.asarray(COLOURS))


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", encoded(COLOURS)[:60], encoded(COLOURS.resize((64, 64)), "JPEG")[:500]],
    ids=["empty", "text", "half a PNG", "half a JPEG"],
)
def test_an_unreadable_image_is_named(tmp_path, content):
    file = tmp_path / "image"
    file.write_bytes(content)
    for source in (file, content):
        with pytest.raises(InputError, match="image cats/7.png cannot be read") as caught:
            open_image(Record("cats/7.png", source, 0))
        assert " at 0x" not in str(caught.value)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match="image cats/7.png cannot be read"):
        open_image(Record("cats/7.png", tmp_path / "none.png", 0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
def test_no_damage_ends_in_another_error(kind):
    """Some damaged files still decode; the others are refused, whatever PIL raises."""
    whole, chance = encoded(PHOTO, kind), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: chance.integers(len(whole))] if chance.random() < 0.3 else whole)
        for position in chance.integers(0, min(200, max(len(damaged), 1)), 5):
            damaged[position : position + 1] = chance.bytes(1)
        try:
            assert open_image(Record("a", bytes(damaged), 0)).mode == "RGB"
        except InputError as error:
            assert str(error).startswith("image a cannot be read (")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_large_images_are_read_until_pil_refuses(monkeypatch):
    """PIL warns above its limit, of 89 million pixels, and refuses at twice as many."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24)
    assert open_image(Record("a", encoded(COLOURS), 0)).size == (6, 4)
    assert open_image(Record("a", encoded(COLOURS.resize((8, 6))), 0)).size == (8, 6)
    with pytest.raises(InputError, match="image a cannot be read .*49 pixels"):
        open_image(Record("a", encoded(COLOURS.resize((7, 7))), 0))


# ------------------------------------------------------------------------------------------------ lists


def test_list_hash_is_over_ids_and_labels_in_order():
    a, b = Record("a", b"", 0), Record("b", b"", 1)
    assert list_hash([a, b]) == hashlib.sha256(b"a\t0\nb\t1\n").hexdigest()
    hashes = {list_hash(x) for x in ([], [a], [b], [a, b], [b, a], [a, b._replace(label=2)])}
    assert len(hashes) == 6
    assert list_hash([a, b]) == list_hash([a._replace(source=b"elsewhere"), b])


def test_content_hash_follows_every_byte_wherever_an_image_is(tmp_path):
    """A file, bytes, and what reads bytes have one hash; a picture in memory has that of its pixels."""
    (tmp_path / "a.bmp").write_bytes(b"some bytes")
    places = (tmp_path / "a.bmp", b"some bytes", lambda: b"some bytes")
    (same,) = {content_hash([Record("a", place, 0)]) for place in places}
    others = Record("a", b"some bytez", 0), Record("b", b"some bytes", 0), Record("a", b"some bytes", 1)
    assert len({same, *(content_hash([record]) for record in others)}) == 4
    grey, white = (Image.new("RGB", (4, 3), colour) for colour in ("grey", "white"))
    assert content_hash([Record("a", grey, 0)]) == content_hash([Record("a", grey.copy(), 0)])
    assert content_hash([Record("a", grey, 0)]) != content_hash([Record("a", white, 0)])
    with pytest.raises(InputError, match="image b cannot be read"):
        content_hash([Record("b", tmp_path / "b.bmp", 0)])


def test_total_size_reads_nothing(tmp_path):
    (tmp_path / "a.bmp").write_bytes(b"12345")
    places = (tmp_path / "a.bmp", tmp_path / "none.bmp", b"123", lambda: 1 / 0, Image.new("RGB", (4, 3)))
    assert total_size([Record(str(i), place, 0) for i, place in enumerate(places)]) == 8
