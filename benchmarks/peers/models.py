"""The random models that all libraries load: those that are timed, and small ones in the formats there are.

transformers makes and saves them, in its own environment; what it computes with them is what all are held to.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import inputs, model_configs
from pini_jax.clip import pretrained
from pini_jax.clip.checkpoints import hub, open_clip, weights
from pini_jax.clip.checkpoints.hugging_face import read_hugging_face_config

WORKER = "benchmarks.peers.workers.transformers"
SIGLIP_TOKENS = 64
# (width, layers, heads, mlp, pixels, patch) and (width, layers, heads)
VIT, TEXT = (768, 12, 12, 3072, 224, 16), (512, 12, 8)
SMALL_VIT, SMALL_TEXT, SMALL_BATCH, VOCABULARY = (128, 2, 2, 512, 32, 8), (128, 2, 2), 4, 1000
TIMED = {
    "clip": model_configs.clip(VIT, TEXT, 512, "quick_gelu"),
    "siglip": model_configs.siglip(VIT, 32_000),
}


def _small_clip(activation: str = "quick_gelu") -> dict:
    config = model_configs.clip(SMALL_VIT, SMALL_TEXT, 128, activation)
    config["text_config"] |= dict(vocab_size=VOCABULARY, bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1)
    return config


class Format(NamedTuple):
    """A model in a folder.

    Attributes:
        layout: how transformers saves it.
        renamed: what becomes of that: "" leaves it, `open_clip` is a folder of it, `openai` an archive alone.
    """

    config: Mapping[str, Any]
    layout: str = "whole"
    renamed: str = ""


FORMATS = {
    "CLIP, safetensors": Format(_small_clip()),
    "CLIP, safetensors in shards": Format(_small_clip(), "shards"),
    "CLIP, safetensors in float16": Format(_small_clip(), "half"),
    "CLIP, pytorch_model.bin": Format(_small_clip(), "pickled"),
    "CLIP of LAION (gelu)": Format(_small_clip("gelu")),
    "CLIP, folder of open_clip": Format(_small_clip(), renamed="open_clip"),
    "CLIP, OpenAI's TorchScript": Format(_small_clip(), renamed="openai"),
    "SigLIP": Format(model_configs.siglip(SMALL_VIT, VOCABULARY)),
    "SigLIP 2, NaFlex": Format(model_configs.siglip(SMALL_VIT, VOCABULARY, kind="siglip2")),
}


def write_timed(
    python: str, folder: Path, configs: Mapping[str, Mapping[str, Any]], images: int, texts: int
) -> None:
    """Each model in a folder of its kind, and its inputs in `KIND.npz`; `python` is that of transformers."""
    for kind, config in configs.items():
        np.savez(folder / f"{kind}.npz", **_inputs(config, images, texts))
    _write(python, {folder / kind: Format(config) for kind, config in configs.items()})


def write_formats(python: str, folder: Path, formats: Mapping[str, Format] = FORMATS) -> None:
    """Each model in a folder of its name, with inputs and what transformers makes of them in `expected.npz`."""
    for name, given in formats.items():
        (folder / name).mkdir(parents=True)
        np.savez(folder / name / "inputs.npz", **_inputs(given.config, SMALL_BATCH, SMALL_BATCH))
    _write(python, {folder / name: given for name, given in formats.items()})
    for name, given in formats.items():
        if given.renamed:
            _rename(python, folder / name, given)


def _write(python: str, formats: Mapping[Path, Format]) -> None:
    wanted = [dict(folder=str(path), config=given.config, layout=given.layout) for path, given in formats.items()]
    _transformers(python, "write", json.dumps(wanted))


def _rename(python: str, place: Path, given: Format) -> None:
    """Under the names of OpenAI, in the place of transformers' own files."""
    clip, sizes = pretrained.load_clip(str(place), str(hub.BUNDLED)), read_hugging_face_config(given.config)
    for file in ("config.json", "model.safetensors"):
        (place / file).unlink()
    tensors = place / "open_clip_model.safetensors"
    weights.save_weights(tensors, open_clip.scheme(sizes), clip.theta)
    if given.renamed == "openai":
        _transformers(python, "archive", tensors, place / "model.pt")
        tensors.unlink()
    else:
        (place / "open_clip_config.json").write_text(json.dumps(open_clip_config(given.config)))


def open_clip_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What open_clip has for a config.json of a CLIP; it takes heads of 64 channels for granted in the image."""
    image, text = config["vision_config"], config["text_config"]
    sizes = dict(
        embed_dim=config["projection_dim"],
        quick_gelu=text["hidden_act"] == "quick_gelu",
        vision_cfg=dict(
            image_size=image["image_size"],
            layers=image["num_hidden_layers"],
            width=image["hidden_size"],
            patch_size=image["patch_size"],
        ),
        text_cfg=dict(
            context_length=inputs.VIT_B_16.text.context_length,
            vocab_size=text["vocab_size"],
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            layers=text["num_hidden_layers"],
        ),
    )
    return dict(model_cfg=sizes)


def _inputs(config: Mapping[str, Any], images: int, texts: int) -> dict[str, np.ndarray]:
    """Pixels of noise; prompts of a CLIP, and random tokens of a SigLIP, whose texts have nothing in common."""
    image, text = config["vision_config"], config["text_config"]
    side = image.get("image_size") or image["patch_size"] * round(image["num_patches"] ** 0.5)
    if config["model_type"] == "clip":
        sizes = inputs.VIT_B_16.text
        prompts = inputs.make_texts(text.get("vocab_size", sizes.vocab_size), texts)
        ids = inputs.whole(prompts, sizes.context_length).ids
    else:
        chance = np.random.default_rng(inputs.SEED)
        ids = chance.integers(3, text["vocab_size"] - 2, (texts, SIGLIP_TOKENS)).astype(np.int32)
    return dict(pixels=inputs.make_pixels(side, images), ids=ids)


def _transformers(python: str, *arguments: str | Path) -> None:
    subprocess.run([python, "-m", WORKER, *map(str, arguments)], check=True)
