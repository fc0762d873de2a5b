"""Records what Hugging Face transformers computes with small random CLIPs, for tests without PyTorch.

Run once, where PyTorch is installed:

    python -m tests.record_transformers

It writes tests/recordings/transformers_*, which `test_transformers_parity.py` replays.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks import parity, torch_models

sys.path.append(str(Path(__file__).parent))

import tiny_clips  # noqa: E402, beside this file

RECORDINGS = Path(__file__).parent / "recordings"
VOCABULARY = tiny_clips.tokenizer().get_vocab_size()
IMAGE = dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2, patch_size=4)
TEXT = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
TEXT |= dict(vocab_size=VOCABULARY, max_position_embeddings=12)


def clip(activation: str) -> dict:
    """Towers of unlike widths, with heads of 8 and 12 channels."""
    ids = dict(bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1)
    return dict(
        model_type="clip",
        text_config=TEXT | ids | dict(hidden_act=activation),
        vision_config=IMAGE | dict(image_size=12, hidden_act=activation),
        projection_dim=20,
    )


def siglip(kind: str, **size: int) -> dict:
    """A joint space as wide as the image tower, and pixels that fill no patch where the kind knows pixels."""
    text = TEXT | dict(projection_size=IMAGE["hidden_size"])
    return dict(model_type=kind, text_config=text, vision_config=IMAGE | size)


CONFIGS = {
    "quick_gelu": clip("quick_gelu"),
    "gelu": clip("gelu"),
    "siglip": siglip("siglip", image_size=14),
    "siglip2": siglip("siglip2", num_patches=9),
}
OTHER_SIZES = (8, 20)  # pixels: fewer patches, and more


def record(name: str, seed: int) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """A random model, what it makes of random inputs, and of images of other sizes."""
    model = torch_models.build(CONFIGS[name], seed)
    sample = parity.sample(model, seed)
    found = dict(ids=sample.ids, end=sample.end, pixels=sample.pixels, **sample.outputs._asdict())
    for side in OTHER_SIZES:
        pixels = np.random.default_rng(side).standard_normal((2, side, side, 3), np.float32)
        found |= {f"pixels_{side}": pixels, f"images_{side}": torch_models.image_features(model, pixels)}
    return model, found


def main() -> None:
    for seed, name in enumerate(CONFIGS):
        folder = RECORDINGS / f"transformers_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        model, recorded = record(name, seed)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        tiny_clips.tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
        np.savez_compressed(folder / "features.npz", **recorded)


if __name__ == "__main__":
    main()
