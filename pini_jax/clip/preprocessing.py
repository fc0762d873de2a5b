"""How a checkpoint wants its images: sizes, filter, mean and standard deviation."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pini_jax.clip.architecture import PIXELS
from pini_jax.core.errors import InputError
from pini_jax.core.wording import quoted

_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)

_FILE = "preprocessor_config.json"
# What a file leaves unsaid, its processor says; those of transformers 5.
_CLIP = {
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": 224,
    "image_mean": _OPENAI_MEAN,
    "image_std": _OPENAI_STD,
    "resample": 3,
}
_SIGLIP = {"size": {"height": 224, "width": 224}, "image_mean": _HALF, "image_std": _HALF, "resample": 3}
_SIGLIP2 = {"patch_size": 16, "max_num_patches": 256, "image_mean": _HALF, "image_std": _HALF, "resample": 2}
_PROCESSORS: dict[str, dict[str, Any]] = {"CLIP": _CLIP, "Siglip": _SIGLIP, "Siglip2": _SIGLIP2}
_PROCESSOR = re.compile(r"(\w+?)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?")
_STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": False}

_OPEN_CLIP = {
    "mean": _OPENAI_MEAN,
    "std": _OPENAI_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "mode": "RGB",
}
# OpenCLIP's names; `random` is for its training, and bicubic where nothing is random.
_INTERPOLATIONS = {"bicubic": 3, "bilinear": 2, "random": 3}
_SQUASHES = {"shortest": False, "squash": True}

# Of values in [0, 1]; beyond these they are in other units, such as [0, 255].
MEANS, DEVIATIONS = (-10, 10), (0.001, 10)

# All that x / 255 can be, rounded once from double precision, as transformers rounds.
_LEVELS = (np.arange(256) * (1 / 255)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize to `size`, centre crop of `crop`, then (x / 255 - mean) / std per channel.

    Attributes:
        size: pixels of the shortest side after resizing, or with `squash` of both sides.
        crop: pixels of the square that is kept; what an image lacks of it is black.
        mean, std: per channel, of values in [0, 1].
        resample: PIL's number of the filter; 2 is bilinear, 3 bicubic.
        squash: the image becomes a square whatever its ratio, as SigLIP's do.
    """

    size: int = 224
    crop: int = 224
    mean: tuple[float, float, float] = _OPENAI_MEAN
    std: tuple[float, float, float] = _OPENAI_STD
    resample: int = 3
    squash: bool = False

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Reads a `preprocessor_config.json`, or the `image_processor` within a `processor_config.json`.

        What the file leaves out, or null, is as in the processor that it names. A file that names none is SigLIP's
        where `size` has a height and nothing is said of a crop, else CLIP's. SigLIP 2's flexible images (those of
        Siglip2ImageProcessor) become the square with as many patches: their own ratio is not kept.

        Raises:
            InputError: another processor, or a step, size or number that is not one of CLIP's or SigLIP's.
        """
        given = _said(config, _FILE)
        given = _said(given.get("image_processor", given), "processor_config.json: image_processor")
        processor = _processor(given)
        settings = _PROCESSORS[processor] | given
        _check_steps(settings)
        if processor == "Siglip2":
            settings |= {"size": _flexible_square(settings), "do_center_crop": False}
        size, squash = _resized(settings["size"])
        return cls(
            size=size,
            crop=_crop(settings, size, squash),
            mean=_triple(settings["image_mean"], f"{_FILE}: image_mean"),
            std=_triple(settings["image_std"], f"{_FILE}: image_std", DEVIATIONS),
            resample=_choice(settings["resample"], range(6), f"{_FILE}: resample"),
            squash=squash,
        )

    @classmethod
    def from_open_clip(cls, preprocess_cfg: Mapping[str, Any], image_size: int) -> Preprocessing:
        """Reads the `preprocess_cfg` of an `open_clip_config.json`; {} is OpenAI's.

        The size is the model's, as in OpenCLIP, whatever `preprocess_cfg` says. Where an odd number of pixels is
        cropped off, our centre is that of transformers, at most one pixel beside torchvision's.

        Raises:
            InputError: `resize_mode` is `longest`, or a value is not one of OpenCLIP's.
        """
        name = "open_clip_config.json: preprocess_cfg"
        settings = _OPEN_CLIP | _said(preprocess_cfg, name)
        _choice(settings["mode"], ("RGB",), f"{name}.mode")
        side = _pixels(image_size, "the image size")
        return cls(
            size=side,
            crop=side,
            mean=_triple(settings["mean"], f"{name}.mean"),
            std=_triple(settings["std"], f"{name}.std", DEVIATIONS),
            resample=_INTERPOLATIONS[_choice(settings["interpolation"], _INTERPOLATIONS, f"{name}.interpolation")],
            squash=_SQUASHES[_choice(settings["resize_mode"], _SQUASHES, f"{name}.resize_mode")],
        )

    def to_hugging_face(self) -> dict[str, Any]:
        """This pre-processing as the content of a `preprocessor_config.json`."""
        square, crop = ({"height": side, "width": side} for side in (self.size, self.crop))
        if self.squash and self.size == self.crop:
            kind: dict[str, Any] = {"image_processor_type": "SiglipImageProcessor", "size": square}
        else:
            kind = {
                "image_processor_type": "CLIPImageProcessor",
                "size": square if self.squash else {"shortest_edge": self.size},
                "do_center_crop": True,
                "crop_size": crop,
            }
        return kind | dict(
            do_convert_rgb=True,
            do_resize=True,
            resample=self.resample,
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=list(self.mean),
            image_std=list(self.std),
        )

    def at(self, image_size: int) -> Preprocessing:
        """This pre-processing at another resolution: `crop` becomes `image_size`, and `size` scales with it.

        Raises:
            InputError: `image_size` is no whole number above zero.
        """
        side = _pixels(image_size, "the image size")
        return dataclasses.replace(self, size=round(self.size * side / self.crop), crop=side)

    def normalise(self, images: UInt8[np.ndarray, "*b h w 3"]) -> Float[np.ndarray, "*b h w 3"]:
        """(x / 255 - mean) / std per channel, in float32."""
        table = (_LEVELS[:, None] - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        # A table for each channel: four times as fast as arithmetic on every pixel, bit for bit.
        return np.stack([table[:, channel].take(images[..., channel]) for channel in range(3)], axis=-1)


def _said(config: Any, name: str) -> dict[str, Any]:
    """The settings of a JSON object that are not null."""
    if not isinstance(config, Mapping):
        raise InputError(f"{name} must be an object, {{...}}, not {quoted(config)}")
    return {key: value for key, value in config.items() if value is not None}


def _processor(given: Mapping[str, Any]) -> str:
    """Whose defaults hold: a key of `_PROCESSORS`."""
    name = given.get("image_processor_type", given.get("feature_extractor_type"))
    if name is None:
        size, crops = given.get("size"), "crop_size" in given or given.get("do_center_crop")
        return "Siglip" if isinstance(size, Mapping) and "height" in size and not crops else "CLIP"
    match = _PROCESSOR.fullmatch(name) if isinstance(name, str) else None
    if match is None or match[1] not in _PROCESSORS:
        known = ", ".join(f"{kind}ImageProcessor" for kind in _PROCESSORS)
        raise InputError(f"{_FILE}: image_processor_type must be one of {known}, not {quoted(name)}")
    return match[1]


def _check_steps(settings: Mapping[str, Any]) -> None:
    """Refuses a file that leaves out a step, or adds one."""
    for step, wanted in _STEPS.items():
        if settings.get(step, wanted) is not wanted:
            raise InputError(f"{_FILE}: {step} must be {str(wanted).lower()}")
    factor = settings.get("rescale_factor", 1 / 255)
    if not _is_number(factor) or not math.isclose(factor, 1 / 255):
        raise InputError(f"{_FILE}: rescale_factor must be 1/255, not {quoted(factor)}")


def _flexible_square(settings: Mapping[str, Any]) -> dict[str, int]:
    """The size that Siglip2ImageProcessor gives a square image: the largest number of patches that fits."""
    patch = _pixels(settings["patch_size"], f"{_FILE}: patch_size")
    patches = _pixels(settings["max_num_patches"], f"{_FILE}: max_num_patches", PIXELS**2)
    return dict.fromkeys(("height", "width"), math.isqrt(patches) * patch)


def _resized(size: Any) -> tuple[int, bool]:
    """Pixels after resizing, and whether they are those of both sides rather than of the shortest."""
    key = f"{_FILE}: size"
    if isinstance(size, Mapping) and list(_said(size, key)) == ["shortest_edge"]:
        return _pixels(size["shortest_edge"], f"{key}.shortest_edge"), False
    if isinstance(size, Mapping | list):
        return _square(size, f"{key}, unless it is a shortest_edge alone,"), True
    return _pixels(size, key), False


def _crop(settings: Mapping[str, Any], size: int, squash: bool) -> int:
    """Pixels of each side after the crop, if there is one."""
    crops = _choice(settings.get("do_center_crop", False), (True, False), f"{_FILE}: do_center_crop")
    if crops:
        return _square(settings.get("crop_size"), f"{_FILE}: crop_size")
    if squash:
        return size
    raise InputError(f"{_FILE}: without do_center_crop size must have a height and a width")


def _square(size: Any, name: str) -> int:
    """The side of a square given as one number, as [height, width], or as {height, width}."""
    sides = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else size
    sides = sides if isinstance(sides, list) else [sides, sides]
    if len(sides) != 2 or sides[0] != sides[1] or sides[0] is None:
        raise InputError(f"{name} must be a square, as in {{'height': 224, 'width': 224}}, not {quoted(size)}")
    return _pixels(sides[0], name)


def _pixels(number: Any, name: str, most: int = PIXELS) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
        raise InputError(f"{name} must be a whole number from 1 to {most:,}, not {quoted(number)}")
    return number


def _triple(numbers: Any, name: str, limits: tuple[float, float] = MEANS) -> tuple[float, float, float]:
    """One number per channel; a single one is that of all three."""
    values = numbers if isinstance(numbers, list | tuple) else [numbers] * 3
    least, most = limits
    if len(values) != 3 or not all(_is_number(x) and least <= x <= most for x in values):
        raise InputError(f"{name} must be three numbers from {least} to {most}, not {quoted(numbers)}")
    red, green, blue = map(float, values)
    return red, green, blue


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _choice(value: Any, known: Iterable[Any], name: str) -> Any:
    """That one of `known` which equals `value`; 1 does not equal True."""
    for x in known:
        if x == value and isinstance(x, bool) == isinstance(value, bool):
            return x
    raise InputError(f"{name} must be one of {', '.join(map(str, known))}, not {quoted(value)}")
