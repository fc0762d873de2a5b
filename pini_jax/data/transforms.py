"""Images to pixels: the view for evaluation, and random ones for training."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from pini_jax import rng
from pini_jax.clip.preprocessing import Preprocessing

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
    """Upright, as its EXIF orientation says, in three channels."""
    return ImageOps.exif_transpose(image).convert("RGB")


def test_view(image: Image.Image, preprocessing: Preprocessing) -> UInt8[np.ndarray, "h w 3"]:
    """Shortest side to `size`, then the centre: of crop x crop pixels."""
    short, crop = min(image.size), preprocessing.crop
    width, height = (
        preprocessing.size if side == short else int(preprocessing.size * side / short) for side in image.size
    )
    resized = image.resize((width, height), preprocessing.resample)
    left, upper = (width - crop) // 2, (height - crop) // 2
    return np.asarray(resized.crop((left, upper, left + crop, upper + crop)))


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
