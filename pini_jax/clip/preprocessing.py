"""How a checkpoint wants its images: sizes, filter, mean and standard deviation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from pini_jax.errors import InputError


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
            crop = crop.get("height") if crop.get("height") == crop.get("width") else None
        if size is None or crop is None:
            raise InputError("preprocessor_config.json: CLIP wants size.shortest_edge and a square crop_size")
        steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        if skipped := [step for step in steps if config.get(step, True) is not True]:
            raise InputError(f"preprocessor_config.json leaves out {', '.join(skipped)}, which CLIP needs")
        if not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255):
            raise InputError("preprocessor_config.json: rescale_factor must be 1/255")
        for key in ("image_mean", "image_std"):
            if len(config.get(key, cls.mean) or ()) != 3:
                raise InputError(f"preprocessor_config.json: {key} must be three numbers")
        return cls(
            size=size,
            crop=crop,
            mean=tuple(config.get("image_mean", cls.mean)),
            std=tuple(config.get("image_std", cls.std)),
            resample=config.get("resample") or cls.resample,
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

    def normalise(self, images: UInt8[np.ndarray, "*b h w 3"]) -> Float[np.ndarray, "*b h w 3"]:
        """(x / 255 - mean) / std per channel, in float32."""
        scaled = images.astype(np.float32) * np.float32(1 / 255)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
