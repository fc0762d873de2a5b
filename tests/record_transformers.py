"""Records what Hugging Face transformers computes with two random CLIPs, for tests without PyTorch.

Run once, where PyTorch is installed:

    python tests/record_transformers.py

It writes tests/recordings/transformers_{quick_gelu,gelu}, which `test_transformers_parity.py` replays.
"""

import shutil
from pathlib import Path

import numpy as np
import tiny_clips
import torch
import transformers

RECORDINGS = Path(__file__).parent / "recordings"
ACTIVATIONS = ("quick_gelu", "gelu")


def random_model(activation: str, seed: int) -> transformers.CLIPModel:
    """Towers of unlike widths, with heads of 8 and 12 channels; no parameter is zero or one."""
    backend = tiny_clips.tokenizer()
    start, end = (backend.token_to_id(token) for token in (tiny_clips.START, tiny_clips.END))
    config = transformers.CLIPConfig(
        text_config=dict(
            vocab_size=backend.get_vocab_size(),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
            hidden_act=activation,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        ),
        vision_config=dict(
            hidden_size=24,
            intermediate_size=36,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=12,
            patch_size=4,
            hidden_act=activation,
        ),
        projection_dim=20,
    )
    torch.manual_seed(seed)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                centre = float("norm" in name and name.endswith("weight"))
                parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
    return model


def record(model: transformers.CLIPModel, seed: int) -> dict[str, np.ndarray]:
    """Inputs and outputs; ids padded with the end token, as CLIP's own tokenizer pads them."""
    rng = np.random.default_rng(seed)
    text, side = model.config.text_config, model.config.vision_config.image_size
    ids = rng.integers(0, text.vocab_size - 2, (4, text.max_position_embeddings))
    end = np.array([11, 4, 1, 7])
    ids[:, 0] = text.bos_token_id
    ids[np.arange(ids.shape[1]) >= end[:, None]] = text.eos_token_id
    pixels = rng.standard_normal((3, 3, side, side), np.float32)
    with torch.no_grad():
        inputs = dict(input_ids=torch.tensor(ids), pixel_values=torch.tensor(pixels))
        logits = model(**inputs).logits_per_image
        images = model.visual_projection(model.vision_model(inputs["pixel_values"]).pooler_output)
        texts = model.text_projection(model.text_model(inputs["input_ids"]).pooler_output)
    return dict(
        ids=ids,
        end=end,
        pixels=pixels,
        image_features=images.numpy(),
        text_features=texts.numpy(),
        logits=logits.numpy(),
    )


def main() -> None:
    for seed, activation in enumerate(ACTIVATIONS):
        folder = RECORDINGS / f"transformers_{activation}"
        shutil.rmtree(folder, ignore_errors=True)
        model = random_model(activation, seed)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        tiny_clips.tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
        np.savez_compressed(folder / "features.npz", **record(model, seed))


if __name__ == "__main__":
    main()
