"""Every CLIP that can be loaded, against the library it comes from: python -m benchmarks.parity.

For each architecture: a random model of reduced depth and width, built and saved by transformers (PyTorch), loaded
by us. In float32 the errors are those of un-normalised features and of zero-shot logits, relative to the greatest
value; in bfloat16 those of features of unit norm, against the reference in float32. The number of parameters is
that of the full size, by shapes alone, beside the published one. OpenAI's own implementation is compared by
recordings, where PINI_REFERENCE_DIR names their folder.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.model_configs import clip, siglip
from benchmarks.torch_models import build, image_features, pixel_inputs, text_features
from pini_jax.clip import architecture, pretrained
from pini_jax.clip.checkpoints import hub, hugging_face, weights
from pini_jax.clip.zero_shot import cosine_logits

VOCABULARY = 700  # more than the bundled tokenizer has


class Model(NamedTuple):
    """A published model: its config.json, and its number of parameters."""

    name: str
    config: Mapping[str, Any]
    published: int | float  # exact, or in millions


BASE, LARGE, SO400M = (768, 12, 12, 3072), (1024, 24, 16, 4096), (1152, 27, 16, 4304)
SMALL_TEXT, LARGE_TEXT = (512, 12, 8), (768, 12, 12)
# Sizes as in the config.json of the hub. Published numbers: exact from model cards and MTEB's list of models, in
# millions from open_clip's docs/model_profile.csv.
MODELS = (
    Model("OpenAI ViT-B/32", clip((*BASE, 224, 32), SMALL_TEXT, 512, "quick_gelu"), 151_277_313),
    Model("OpenAI ViT-B/16", clip((*BASE, 224, 16), SMALL_TEXT, 512, "quick_gelu"), 149_620_737),
    Model("OpenAI ViT-L/14", clip((*LARGE, 224, 14), LARGE_TEXT, 768, "quick_gelu"), 427_616_513),
    Model("OpenAI ViT-L/14-336", clip((*LARGE, 336, 14), LARGE_TEXT, 768, "quick_gelu"), 427_944_193),
    Model("LAION ViT-B/32", clip((*BASE, 224, 32), SMALL_TEXT, 512, "gelu"), 151.28),
    Model("LAION ViT-B/16", clip((*BASE, 224, 16), SMALL_TEXT, 512, "gelu"), 149.62),
    Model("LAION ViT-L/14", clip((*LARGE, 224, 14), LARGE_TEXT, 768, "gelu"), 427.62),
    Model("LAION ViT-H/14", clip((1280, 32, 16, 5120, 224, 14), (1024, 24, 16), 1024, "gelu"), 986.11),
    Model("LAION ViT-g/14", clip((1408, 40, 16, 6144, 224, 14), (1024, 24, 16), 1024, "gelu"), 1366.68),
    Model("LAION ViT-bigG/14", clip((1664, 48, 16, 8192, 224, 14), (1280, 32, 20), 1280, "gelu"), 2539.57),
    Model("SigLIP B/16-224", siglip((*BASE, 224, 16), 32_000), 203_155_970),
    Model("SigLIP L/16-256", siglip((*LARGE, 256, 16), 32_000), 652_150_786),
    Model("SigLIP SO400M/14-384", siglip((*SO400M, 384, 14), 32_000), 877.96),
    Model("SigLIP 2 B/16-224", siglip((*BASE, 224, 16), 256_000), 375_187_970),
    Model("SigLIP 2 B/16-384", siglip((*BASE, 384, 16), 256_000), 375_479_810),
    Model("SigLIP 2 SO400M/16-384", siglip((*SO400M, 384, 16), 256_000), 1_136_039_602),
    Model("SigLIP 2 SO400M/16-512", siglip((*SO400M, 512, 16), 256_000), 1_136_555_698),
    Model(
        "SigLIP 2 g-opt/16-256",
        siglip((1536, 40, 16, 6144, 256, 16), 256_000, text=SO400M, projection=1536),
        1_871_393_906,
    ),
    Model("SigLIP 2 B/16 NaFlex", siglip((*BASE, 256, 16), 256_000, kind="siglip2"), 375_234_050),
)


def count(sizes: architecture.Architecture) -> int:
    """Parameters at full size; the running statistics of batch norm are none."""
    shapes = weights.parameter_shapes(sizes)
    return sum(math.prod(s) for path, s in shapes.items() if not path.endswith(("norm/mean", "norm/var")))


def reduced(config: Mapping[str, Any]) -> dict:
    """Two layers of two heads each; the heads' width, the MLP's ratio, activations and patches stay."""

    def section(given: Mapping[str, Any]) -> dict:
        width = 2 * given["hidden_size"] // given["num_attention_heads"]
        smaller = dict(
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=width * given["intermediate_size"] // given["hidden_size"],
        )
        return dict(given) | smaller

    image, text = section(config["vision_config"]), section(config["text_config"])
    text |= dict(vocab_size=VOCABULARY, bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1)
    if "num_patches" in image:
        image["num_patches"] = 16
    else:
        # As many pixels over as at full size: they are dropped.
        image["image_size"] = 4 * image["patch_size"] + image["image_size"] % image["patch_size"]
    if config["model_type"] == "clip":
        return dict(config) | dict(vision_config=image, text_config=text, projection_dim=48)
    text["projection_size"] = image["hidden_size"]
    return dict(config) | dict(vision_config=image, text_config=text)


class Outputs(NamedTuple):
    """Features and zero-shot logits of a sample."""

    images: np.ndarray
    texts: np.ndarray
    logits: np.ndarray


class Sample(NamedTuple):
    """Inputs of both towers, and what the reference makes of them.

    Attributes:
        ids: whole sequences; the pooled token of each is at `end`.
    """

    pixels: np.ndarray
    ids: np.ndarray
    end: np.ndarray
    outputs: Outputs


def sample(model: torch.nn.Module, seed: int, images: int = 3, texts: int = 4) -> Sample:
    """Random inputs through a reference model."""
    rng = np.random.default_rng(seed)
    text, image = model.config.text_config, model.config.vision_config
    length, kind = text.max_position_embeddings, model.config.model_type
    ids = rng.integers(3, text.vocab_size - 2, (texts, length))
    if kind == "clip":
        end = rng.permutation(np.linspace(1, length - 1, texts).astype(int))
        ids[:, 0] = text.bos_token_id
        ids[np.arange(length) >= end[:, None]] = text.eos_token_id
    else:
        end = np.full(texts, length - 1)
    side = math.isqrt(image.num_patches) * image.patch_size if kind == "siglip2" else image.image_size
    pixels = rng.standard_normal((images, side, side, 3), np.float32)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(ids), **pixel_inputs(model, pixels)).logits_per_image
    outputs = Outputs(image_features(model, pixels), text_features(model, ids), logits.numpy())
    return Sample(pixels, ids, end, outputs)


def forward(loaded: pretrained.Pretrained, inputs: Sample) -> Outputs:
    """What we make of the inputs."""
    images = loaded.image_tower.apply({"params": loaded.theta["image"]}, inputs.pixels)
    texts = loaded.text_tower.apply({"params": loaded.theta["text"]}, inputs.ids, inputs.end)
    logits = cosine_logits(loaded.theta, images[None, None], texts[None])[0, 0]
    return Outputs(*(np.asarray(x) for x in (images, texts, logits)))


def relative_errors(ours: Outputs, theirs: Outputs) -> tuple[float, ...]:
    """Greatest difference of images, texts and logits, relative to the greatest value."""
    return tuple(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


def unit_errors(ours: Outputs, theirs: Outputs) -> tuple[float, ...]:
    """Greatest difference of image and text features of unit norm."""

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    return tuple(float(np.abs(unit(a) - unit(b)).max()) for a, b in zip(ours[:2], theirs[:2], strict=True))


class Line(NamedTuple):
    """One row of the table."""

    name: str
    parameters: int | None
    published: int | float | None
    float32: tuple[float, ...]
    bfloat16: tuple[float, ...]

    @property
    def fine(self) -> bool:
        """Whether all is within what is asked: 1e-5 in float32, 1e-2 in bfloat16, and the published number."""
        same = self.published is None or _same_count(self.parameters, self.published)
        return same and max(self.float32) <= 1e-5 and max(self.bfloat16) <= 1e-2


def _same_count(ours: int | None, published: int | float) -> bool:
    if isinstance(published, int):
        return ours == published
    return ours is not None and round(ours / 1e6, 2) == published


def _both(path: Path, tokenizer: Path, sample: Sample) -> tuple[tuple[float, ...], tuple[float, ...]]:
    def ours(dtype: jnp.dtype) -> Outputs:
        return forward(pretrained.load_clip(str(path), str(tokenizer), dtype), sample)

    return relative_errors(ours(jnp.float32), sample.outputs), unit_errors(ours(jnp.bfloat16), sample.outputs)


def live(model: Model, seed: int = 0) -> Line:
    """A reduced model of transformers, saved by it and loaded by us."""
    reference = build(reduced(model.config), seed)
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        errors = _both(Path(folder), hub.BUNDLED, sample(reference, seed))
    full = hugging_face.read_hugging_face_config(model.config)
    return Line(model.name, count(full), model.published, *errors)


# Sizes of OpenAI's residual towers: (pixels, width, blocks, heads), text width and heads, embed_dim.
RESNETS = {
    "RN50": (architecture.ResNet(224, 64, (3, 4, 6, 3), 32), (512, 8), 1024, 102_007_137),
    "RN101": (architecture.ResNet(224, 64, (3, 4, 23, 3), 32), (512, 8), 512, 119_688_033),
    "RN50x4": (architecture.ResNet(288, 80, (4, 6, 10, 6), 40), (640, 10), 640, 178_300_601),
    "RN50x16": (architecture.ResNet(384, 96, (6, 8, 18, 8), 48), (768, 12), 768, 290_979_217),
    "RN50x64": (architecture.ResNet(448, 128, (3, 15, 36, 10), 64), (1024, 16), 1024, 623_258_305),
}


def resnet_sizes(name: str) -> architecture.Architecture:
    """The full size of one of OpenAI's residual models."""
    image, (width, heads), embed_dim, _ = RESNETS[name]
    text = architecture.Transformer(width, 12, heads, 4 * width, causal=True)
    return architecture.Architecture(image, architecture.TextSizes(49408, 77, text), embed_dim)


def recorded(folder: Path, tokenizer: Path) -> Iterator[Line]:
    """OpenAI's implementation: safetensors with its names, and its TorchScript archives, by recordings."""
    for path in sorted(folder.glob("*.json")):
        with np.load(path.with_suffix(".npz")) as file:
            record = dict(file)
        ids = record["token_ids"]
        expected = Sample(
            record["images"].transpose(0, 2, 3, 1),
            ids,
            ids.argmax(-1),
            Outputs(record["image_features"], record["text_features"], record["logits"]),
        )
        kind = "ModifiedResNet" if json.loads(path.read_text())["vision_patch_size"] is None else "ViT"
        for file in (path.with_suffix(".clip.safetensors"), path.with_suffix(".pt")):
            if file.exists():
                name = f"OpenAI's code: {kind} (`{path.stem}{file.suffix}`)"
                yield Line(name, None, None, *_both(file, tokenizer, expected))


def markdown(lines: list[Line]) -> str:
    """The table of the README."""
    rows = ["| model | parameters | published | image | text | logits | image, bf16 | text, bf16 |"]
    rows.append("|" + "---|" * 8)
    for line in lines:
        published = f"{line.published:,}" if isinstance(line.published, int) else f"{line.published} M"
        counts = (f"{line.parameters:,}", published) if line.published is not None else ("", "")
        errors = (*line.float32, *line.bfloat16)
        rows.append(f"| {line.name} | {' | '.join(counts)} | {' | '.join(f'{x:.0e}' for x in errors)} |")
    return "\n".join(rows)


def main() -> None:
    """Prints the table, then the full-size counts of the residual models, and fails where one is off."""
    lines = [live(model) for model in MODELS]
    reference, data = os.environ.get("PINI_REFERENCE_DIR"), os.environ.get("PINI_DATA_DIR")
    if reference and data:
        lines += recorded(Path(reference, "towers"), Path(data, "tokenizer"))
    else:
        print("PINI_REFERENCE_DIR and PINI_DATA_DIR are not set: no recordings of OpenAI's code are compared\n")
    print(markdown(lines))
    print("\n| residual model | parameters | published |\n|---|---|---|")
    counts = {name: count(resnet_sizes(name)) for name in RESNETS}
    for name, number in counts.items():
        print(f"| OpenAI {name} | {number:,} | {RESNETS[name][-1]:,} |")
    wrong = [line.name for line in lines if not line.fine]
    wrong += [name for name, number in counts.items() if number != RESNETS[name][-1]]
    if wrong:
        raise SystemExit("outside the tolerance: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
