"""A CLIP of random weights in a folder of Hugging Face's, which this library and transformers both load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

from benchmarks.inputs import SEED
from pini_jax.clip.architecture import Architecture
from pini_jax.clip.checkpoints import hub, hugging_face, weights


def write(folder: Path, sizes: Architecture) -> None:
    """Config, weights, and the bundled tokenizer; the last two ids are start and end token."""
    config = hugging_face.write_config(sizes, sizes.text.vocab_size - 2, sizes.text.vocab_size - 1)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(hub.BUNDLED / "tokenizer.json", folder)
    weights.save_weights(folder / "model.safetensors", hugging_face.CLIP, theta(sizes))


def theta(sizes: Architecture) -> dict:
    """No parameter is zero or one, so that classes differ, and what is left out of a computation shows."""
    chance = np.random.default_rng(SEED)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path == "logit_scale":
            return np.float32(np.log(100))  # as all published ones have it
        spread = sizes.text.transformer.width**-0.5 if path.endswith("kernel") else 0.2
        return chance.standard_normal(shape, np.float32) * np.float32(spread) + np.float32(path.endswith("scale"))

    shapes = weights.parameter_shapes(sizes)
    return unflatten_dict({path: draw(path, shape) for path, shape in shapes.items()}, sep="/")
