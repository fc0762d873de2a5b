"""Images to pixels: the view for evaluation, and random ones for training.

Whatever a file holds becomes three channels of 8 bits, the same for every checkpoint. It is what transformers'
processors make of it, but for the rows with a star: there they show nearly all as white, or black, or lying down.

| the file holds                       | what becomes of it                                                     |
|--------------------------------------|------------------------------------------------------------------------|
| greyscale, or 1 bit                  | three channels alike                                                   |
| a palette                            | its colours                                                            |
| transparency of any kind             | on white: alpha channels, palettes, and colours marked as transparent  |
| CMYK, YCbCr, LAB                     | as PIL converts it; colour profiles are not applied                    |
| 16-bit colours                       | the high byte                                                          |
| 16-bit greyscale *                   | the high byte                                                          |
| 32-bit integers *                    | 0 to 255 as they are, up to 65535 the high byte of 16; others refused  |
| 32-bit floats *                      | refused: nothing says which value is white                             |
| an orientation in its EXIF or XMP *  | turned upright; a damaged EXIF says nothing                            |
| several frames or pages              | the first                                                              |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.core import rng
from pini_jax.core.errors import InputError
from pini_jax.core.options import option
from pini_jax.data import limits, resampling

# EXIF's orientation -> what turns the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = {5, 6, 7, 8}  # width and height change places
_MIRRORED = {2, 3, 6, 7}, {3, 4, 7, 8}  # x, and y, run against the file's columns or rows

WHOLE = 1 << 22  # pixels of a resized image of which only a crop is kept
STRIP = 1 << 22  # pixels that are put on white at once

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels of the original
Part = tuple[float, float, float, float]  # the same in pixels of another scale


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random resized crop and flip, with torchvision's distribution.

    Attributes:
        scale: least and greatest area of the crop, as a fraction of the image's.
        ratio: least and greatest width / height of the crop, drawn log-uniformly.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, float] = option((0.08, 1.0), "a range within (0, 1]", lambda x: 0 < x[0] <= x[1] <= 1)
    ratio: tuple[float, float] = option((3 / 4, 4 / 3), "a positive range", lambda x: 0 < x[0] <= x[1] < math.inf)
    flip: float = option(0.5, "a probability", lambda x: 0 <= x <= 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright and in three channels of 8 bits, as the table above says.

    Raises:
        InputError: floats, or integers beyond 16 bits, or more pixels than `limits` allows.
    """
    limits.bound_pixels(image)
    image.load()  # a TIFF turns itself upright here, and forgets its orientation
    limits.bound_pixels(image)  # some files hold an image of another size than they say
    if image.mode == "F":
        raise InputError("floats do not say which value is white: save it with 8 or 16 bits")
    rgb = _grey_to_8_bits(image) if image.mode.startswith("I") else image
    if "A" in rgb.getbands() or rgb.info.get("transparency") is not None:
        rgb = _on_white(rgb)
    turn = _TURNS.get(_orientation(image))
    rgb = rgb if turn is None else rgb.transpose(turn)
    return rgb if rgb is not image and rgb.mode == "RGB" else rgb.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """In RGB, in front of white; some rows at a time, as it takes four times their memory."""
    flat, rows = Image.new("RGB", image.size), max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", part.size, "white")
        flat.paste(Image.alpha_composite(white, part).convert("RGB"), (0, top))
    return flat


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Mode L from 16 bits, or from integers that PIL widened to 32, with what was transparent in white."""
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 0xFFFF:
        raise InputError("integers beyond 16 bits do not say which value is white: save it with 8 or 16 bits")
    # PNG and PGM get here with 16 bits only; a TIFF may keep 8 of its 32.
    wide = image.mode != "I" or image.format in ("PNG", "PPM") or levels.max() > 0xFF
    grey = (levels >> 8 if wide else levels).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        grey[levels == transparent] = 0xFF
    return Image.fromarray(grey)


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF or XMP say; 1, upright, where they do not, or are damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # PIL's readers raise anything at all; a viewer would show the picture all the same
        return 1


def evaluation_view(image: Image.Image, preprocessing: Preprocessing) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image resized, then its centre: of crop x crop pixels, bit for bit as in transformers' processors.

    Source: CLIPImageProcessorPil and SiglipImageProcessorPil of transformers 5.
    """
    width, height = resized_size(image.size, preprocessing)
    crop = preprocessing.crop
    left, upper = (width - crop) // 2, (height - crop) // 2
    box = left, upper, left + crop, upper + crop
    if width * height <= max(WHOLE, image.width * image.height):
        return np.asarray(image.resize((width, height), preprocessing.resample).crop(box))
    return _part(image, (width, height), box, preprocessing.resample)


def _part(image: Image.Image, size: tuple[int, int], box: Box, resample: int) -> UInt8[np.ndarray, "h w 3"]:
    """The same where the whole would be many times as large as what is kept of it: of a sliver, say."""
    filter = resampling.FILTERS.get(Image.Resampling(resample))
    if filter is None or size[0] < image.width or size[1] < image.height:
        raise InputError(f"resized for this CLIP it would be {size[0]} x {size[1]} pixels, too many: cut it")
    left, upper, right, lower = box
    inside = max(left, 0), max(upper, 0), min(right, size[0]), min(lower, size[1])
    part = Image.fromarray(resampling.resized_part(image, size, inside, filter))
    x, y = min(left, 0), min(upper, 0)
    return np.asarray(part.crop((x, y, x + right - left, y + lower - upper)))


def resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height before the crop: `squash` gives (s, s); else (floor(s w / min), floor(s h / min))."""
    if preprocessing.squash:
        return preprocessing.size, preprocessing.size
    width, height = (int(preprocessing.size * side / min(size)) for side in size)
    return width, height


def random_crop(size: tuple[int, int], augment: Augment, chance: np.random.Generator) -> Box:
    """Box of a random resized crop: ten tries, then the largest centred box within the allowed ratios.

    Source: torchvision.transforms.RandomResizedCrop.get_params.
    """
    width, height = size
    log_ratio = np.log(augment.ratio)
    for _ in range(10):
        area = width * height * chance.uniform(*augment.scale)
        ratio = math.exp(chance.uniform(*log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(chance.integers(width - w + 1)), int(chance.integers(height - h + 1))
            return left, upper, left + w, upper + h
    ratio = min(max(width / height, augment.ratio[0]), augment.ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def train_view(
    image: Image.Image, preprocessing: Preprocessing, augment: Augment, seed: int, view: int, index: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A random resized crop, perhaps flipped: of crop x crop pixels, a pure function of its arguments.

    Args:
        image: RGB and upright, or a file as PIL opens it. Of a JPEG file the crop is read at 1/2, 1/4 or 1/8 of
            its scale if it has crop x crop pixels even so. That takes a fraction of the time, and the pixels are
            those of the whole file to about one level of 255.
    """
    chance, side = rng.host_stream(seed, "views", view, index), preprocessing.crop

    def draw(size: tuple[int, int]) -> Box:
        return random_crop(size, augment, chance)

    if isinstance(image, JpegImageFile) and image.mode in ("RGB", "L"):
        rgb, (left, upper, right, lower) = _read_scaled(image, draw, side)
    else:
        rgb = to_rgb(image) if isinstance(image, ImageFile.ImageFile) else image
        left, upper, right, lower = draw(rgb.size)
    x, y = math.floor(left), math.floor(upper)
    part = rgb.crop((x, y, math.ceil(right), math.ceil(lower)))
    # Only at a reduced scale the box has fractions, of 1/2, 1/4 or 1/8.
    resized = part.resize((side, side), preprocessing.resample, (left - x, upper - y, right - x, lower - y))
    pixels = np.asarray(resized)
    return pixels[:, ::-1] if chance.random() < augment.flip else pixels


def _read_scaled(
    file: JpegImageFile, draw: Callable[[tuple[int, int]], Box], side: int
) -> tuple[Image.Image, Part]:
    """The upright image and the part that `draw` chooses, at the least scale that leaves it side x side pixels."""
    orientation = _orientation(file)
    size = file.size[::-1] if orientation in _LYING else file.size
    left, upper, right, lower = draw(size)
    least = 1 if file.width * file.height <= limits.PIXELS["JPEG"] else 2
    scale = next((s for s in (8, 4, 2) if min(right - left, lower - upper) >= s * side), least)
    file.draft(None, (file.width // scale, file.height // scale))
    rgb = to_rgb(file)
    # Where the size is no multiple of the scale, the file's last row and column are narrower.
    x, y = (
        reduced - whole / scale if orientation in mirrored else 0
        for reduced, whole, mirrored in zip(rgb.size, size, _MIRRORED, strict=True)
    )
    return rgb, (left / scale + x, upper / scale + y, right / scale + x, lower / scale + y)
