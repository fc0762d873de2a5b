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

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from pini_jax import rng
from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.errors import InputError

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

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels of the original


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random resized crop and flip, with torchvision's distribution.

    Attributes:
        scale: least and greatest area of the crop, as a fraction of the image's.
        ratio: least and greatest width / height of the crop, drawn log-uniformly.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, and in three channels of 8 bits: the table above says how.

    Raises:
        InputError: floats, or integers beyond 16 bits.
    """
    image.load()  # a TIFF turns itself upright here, and forgets its orientation
    if image.mode == "F":
        raise InputError("floats do not say which value is white: save it with 8 or 16 bits")
    rgb = _grey_to_8_bits(image) if image.mode.startswith("I") else image
    if "A" in rgb.getbands() or rgb.info.get("transparency") is not None:
        rgba = rgb.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb, turn = rgb.convert("RGB"), _TURNS.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


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


def test_view(image: Image.Image, preprocessing: Preprocessing) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image resized, then its centre: of crop x crop pixels, bit for bit as in transformers' processors.

    Source: CLIPImageProcessorPil and SiglipImageProcessorPil of transformers 5.
    """
    width, height = resized_size(image.size, preprocessing)
    resized, crop = image.resize((width, height), preprocessing.resample), preprocessing.crop
    left, upper = (width - crop) // 2, (height - crop) // 2
    return np.asarray(resized.crop((left, upper, left + crop, upper + crop)))


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
    """A random resized crop, perhaps flipped: of crop x crop pixels, a pure function of its arguments."""
    chance = rng.host_stream(seed, "views", view, index)
    side = preprocessing.crop
    box = random_crop(image.size, augment, chance)
    pixels = np.asarray(image.crop(box).resize((side, side), preprocessing.resample))
    return pixels[:, ::-1] if chance.random() < augment.flip else pixels
