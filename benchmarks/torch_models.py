"""Random models of transformers (PyTorch), by the config.json of a CLIP, SigLIP or SigLIP 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

CLASSES = {
    "clip": transformers.CLIPModel,
    "siglip": transformers.SiglipModel,
    "siglip2": transformers.Siglip2Model,
}


def build(config: Mapping[str, Any], seed: int) -> torch.nn.Module:
    """A random model of the reference library; no parameter is zero or one, so that none can be left out."""
    model_class = CLASSES[config["model_type"]]
    settings = {key: value for key, value in config.items() if key != "model_type"}
    torch.manual_seed(seed)
    model = model_class(model_class.config_class(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "logit_scale":
                parameter.fill_(2.0)
            elif name == "logit_bias":
                parameter.fill_(-3.0)
            elif parameter.ndim > 1 and "embedding" not in name:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn_like(parameter) / fan_in**0.5)
            else:
                centre = float("norm" in name and name.endswith("weight"))
                parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
    return model


def image_features(model: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Of images [b h w 3], un-normalised: positions are interpolated where the size is not the model's own."""
    with torch.inference_mode():
        features = model.vision_model(**pixel_inputs(model, pixels)).pooler_output
        return (model.visual_projection(features) if hasattr(model, "visual_projection") else features).numpy()


def text_features(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    """Of whole sequences [c n], un-normalised."""
    with torch.inference_mode():
        features = model.text_model(torch.tensor(ids)).pooler_output
        return (model.text_projection(features) if hasattr(model, "text_projection") else features).numpy()


def pixel_inputs(model: torch.nn.Module, pixels: np.ndarray) -> dict[str, Any]:
    """Images [b h w 3] as the model takes them: SigLIP 2 cut into patches."""
    image = model.config.vision_config
    if model.config.model_type != "siglip2":
        values = torch.tensor(pixels.transpose(0, 3, 1, 2))
        return dict(pixel_values=values, interpolate_pos_encoding=pixels.shape[1] != image.image_size)
    patch = image.patch_size
    b, side, _, channels = pixels.shape
    grid = side // patch
    cut = pixels.reshape(b, grid, patch, grid, patch, channels).swapaxes(2, 3).reshape(b, grid**2, -1)
    return dict(
        pixel_values=torch.tensor(cut),
        pixel_attention_mask=torch.ones(b, grid**2, dtype=torch.int32),
        spatial_shapes=torch.full((b, 2), grid),
    )
