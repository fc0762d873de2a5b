"""Images to pixels: the checkpoint's own pre-processing, and the training views."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps

from pini_jax.errors import InputError

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels of the original


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Shortest side to `size`, centre crop of `crop`, then (x / 255 - mean) / std per channel.

    Attributes:
        size: pixels of the shortest side after resizing.
        crop: pixels of the square that is kept.
        mean, std: per channel, of values in [0, 1].
        resample: PIL's number of the filter; 3 is bicubic.
    """

    size: int = 224
    crop: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resample: int = 3

    @classmethod
    def from_hugging_face(cls, config: Mapping) -> Preprocessing:
        """Reads a `preprocessor_config.json`.

        Raises:
            InputError: a size is written in a way that is not CLIP's.
        """
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        size = size.get("shortest_edge") if isinstance(size, Mapping) else size
        if isinstance(crop, Mapping):
            crop = crop["height"] if crop.get("height") == crop.get("width") else None
        if size is None or crop is None:
            raise InputError("preprocessor_config.json: CLIP wants size.shortest_edge and a square crop_size")
        return cls(
            size=size,
            crop=crop,
            mean=tuple(config.get("image_mean", cls.mean)),
            std=tuple(config.get("image_std", cls.std)),
            resample=config.get("resample", cls.resample),
        )

    def to_hugging_face(self) -> dict:
        """The same as the content of a `preprocessor_config.json`."""
        return dict(
            image_processor_type="CLIPImageProcessor",
            do_convert_rgb=True,
            do_resize=True,
            size={"shortest_edge": self.size},
            resample=self.resample,
            do_center_crop=True,
            crop_size={"height": self.crop, "width": self.crop},
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=list(self.mean),
            image_std=list(self.std),
        )

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """uint8 [..., h, w, 3] -> float32, (x / 255 - mean) / std."""
        scaled = images.astype(np.float32) * np.float32(1 / 255)
        return (scaled - np.float32(self.mean)) / np.float32(self.std)


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


def test_view(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Shortest side to `size`, then the centre: uint8 [crop, crop, 3]."""
    short, crop = min(image.size), preprocessing.crop
    width, height = (
        preprocessing.size if side == short else int(preprocessing.size * side / short) for side in image.size
    )
    resized = image.resize((width, height), preprocessing.resample)
    left, upper = (width - crop) // 2, (height - crop) // 2
    return np.asarray(resized.crop((left, upper, left + crop, upper + crop)))


def random_crop(size: tuple[int, int], augment: Augment, rng: np.random.Generator) -> Box:
    """Box of a random resized crop: ten tries, then the largest centred box within the allowed ratios.

    Source: torchvision.transforms.RandomResizedCrop.get_params.
    """
    width, height = size
    log_ratio = np.log(augment.ratio)
    for _ in range(10):
        area = width * height * rng.uniform(*augment.scale)
        ratio = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    ratio = min(max(width / height, augment.ratio[0]), augment.ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def train_view(
    image: Image.Image, preprocessing: Preprocessing, augment: Augment, seed: int, view: int, index: int
) -> np.ndarray:
    """A random resized crop, perhaps flipped: uint8 [crop, crop, 3], a pure function of its arguments."""
    rng = np.random.default_rng((seed, view, index))
    side = preprocessing.crop
    box = random_crop(image.size, augment, rng)
    pixels = np.asarray(image.resize((side, side), preprocessing.resample, box=box))
    return pixels[:, ::-1] if rng.random() < augment.flip else pixels
