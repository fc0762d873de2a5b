"""How much of an image file is decoded: a few bytes can claim many pixels, or go over them again and again."""

from __future__ import annotations

import re

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from pini_jax.core.errors import InputError

# The most pixels that are read of a file, by PIL's name of its format: decoding takes 8 to 24 bytes each.
PIXELS = dict.fromkeys(("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "MPO", "PNG", "PPM", "TIFF"), 1 << 26)
PIXELS |= {"WEBP": 1 << 25, "JPEG2000": 1 << 25}
RARE = 1 << 22  # of any other format; Python decodes some of them, a microsecond for a pixel
SIDE = 1 << 20  # along a side: PIL's memory for its filters grows with it
LARGE = 1 << 25  # images of more are decoded one at a time, however many threads there are
SCANNED = 1 << 32  # pixels times scans of a progressive JPEG, a nanosecond each; encoders write about ten scans

# A marker of JPEG that ends compressed data; in them 0xff is followed by 0, or by the number of a restart.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_SCAN, _END = 0xDA, 0xD9


def bound_pixels(image: Image.Image) -> None:
    """Refuses an image of too many pixels; of a JPEG file half the scale is read where that is enough.

    Raises:
        InputError: it has more pixels than `PIXELS` or `SIDE` say.
    """
    most = PIXELS.get(image.format, RARE) if image.format else max(PIXELS.values())
    if isinstance(image, JpegImageFile) and image.width * image.height > most:
        image.draft(None, (image.width // 2, image.height // 2))
    if image.width * image.height > most or max(image.size) > SIDE:
        raise InputError(
            f"{image.width} x {image.height} pixels, of which at most {most:,} are read, {SIDE:,} along a side"
        )


def check_scans(image: Image.Image) -> None:
    """Refuses a progressive JPEG that goes over its pixels again and again, with a few bytes each time.

    Raises:
        InputError: as said.
    """
    if not isinstance(image, JpegImageFile) or not image.info.get("progressive") or image.fp is None:
        return
    place = image.fp.tell()
    image.fp.seek(0)
    scans = _scans(image.fp.read())
    image.fp.seek(place)
    if scans * image.width * image.height > SCANNED:
        raise InputError(f"{scans} scans over {image.width} x {image.height} pixels: save it again")


def _scans(jpeg: bytes) -> int:
    """How often the first picture of a file is gone over; others may follow it."""
    scans, place = 0, 2
    while (marker := _MARKER.search(jpeg, place)) and marker[1][0] != _END:
        scans += marker[1][0] == _SCAN
        # What follows the marker begins with its own length.
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    return scans
