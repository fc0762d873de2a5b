"""Records what open_clip computes with small random models, for tests without it.

Run once, where open_clip_torch (with its timm and torchvision) is installed:

    python -m tests.record_open_clip

It writes tests/recordings/open_clip_*, hub folders that `test_open_clip_parity.py` replays.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import open_clip
import safetensors.torch
import timm
import torch

sys.path.append(str(Path(__file__).parent))

import tiny_clips  # noqa: E402, beside this file

RECORDINGS = Path(__file__).parent / "recordings"
TEXT = dict(context_length=12, vocab_size=tiny_clips.tokenizer().get_vocab_size(), width=16, heads=2, layers=2)
IMAGE = dict(image_size=12, patch_size=4, layers=2, width=24)
# Heads of 12 channels and an MLP of one and a half; SigLIP's trunk has its sizes in timm's code.
VIT = dict(head_width=12, mlp_ratio=1.5)
SIGLIP_TEXT = dict(no_causal_mask=True, proj_bias=True, pool_type="last", norm_kwargs={"eps": 1e-6})
CONFIGS = {
    "vit": dict(embed_dim=20, vision_cfg=IMAGE | VIT, text_cfg=TEXT),
    "quick_gelu": dict(embed_dim=20, quick_gelu=True, vision_cfg=IMAGE | VIT, text_cfg=TEXT),
    "average": dict(
        embed_dim=20,
        vision_cfg=IMAGE | VIT | dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True),
        text_cfg=TEXT | dict(pool_type="last", no_causal_mask=True),
    ),
    "siglip": dict(
        embed_dim=24,
        init_logit_bias=-10,
        custom_text=True,
        vision_cfg=dict(
            image_size=12,
            timm_model_name="vit_tiny_patch4_siglip_12",
            timm_model_pretrained=False,
            timm_pool="map",
            timm_proj="none",
        ),
        text_cfg=TEXT | SIGLIP_TEXT | dict(act_kwargs={"approximate": "tanh"}),
    ),
}
PREPROCESS = dict(mean=[0.5] * 3, std=[0.25] * 3, interpolation="bilinear", resize_mode="squash")


class SigLIP(torch.nn.Module):
    """What open_clip builds of a SigLIP's config, around a trunk of two layers."""

    def __init__(self, config: dict):
        super().__init__()
        self.visual = torch.nn.Module()
        self.visual.trunk = timm.models.vision_transformer.VisionTransformer(
            img_size=12,
            patch_size=4,
            embed_dim=24,
            depth=2,
            num_heads=2,
            mlp_ratio=1.5,
            class_token=False,
            global_pool="map",
            num_classes=0,
        )
        text = open_clip.model.CLIPTextCfg(**config["text_cfg"])
        self.text = open_clip.model._build_text_tower(config["embed_dim"], text)
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))
        self.logit_bias = torch.nn.Parameter(torch.zeros(()))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.visual.trunk(pixels)

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        return self.text(ids)


def random_model(config: dict, seed: int) -> torch.nn.Module:
    """No parameter is zero or one."""
    torch.manual_seed(seed)
    sizes = {key: value for key, value in config.items() if key not in ("custom_text", "init_logit_bias")}
    model = (SigLIP(config) if config.get("custom_text") else open_clip.CLIP(**sizes)).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name == "logit_scale":
                tensor.fill_(2.0)
            elif "mask" not in name:
                centre = float("ln_" in name or "norm" in name) * name.endswith("weight")
                tensor.copy_(centre + 0.2 * torch.randn_like(tensor))
    return model


def record(config: dict, seed: int) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """A random model, and what it makes of random inputs."""
    model, rng = random_model(config, seed), np.random.default_rng(seed)
    ids = rng.integers(1, TEXT["vocab_size"] - 2, (4, TEXT["context_length"]))
    end = np.array([11, 4, 1, 7])
    if config["text_cfg"].get("pool_type") == "last":
        end[:] = 11
    else:
        ids[np.arange(12) > end[:, None]] = 0
        ids[np.arange(4), end] = TEXT["vocab_size"] - 1
    side = config["vision_cfg"]["image_size"]
    pixels = rng.standard_normal((2, side, side, 3), np.float32)
    with torch.no_grad():
        images = model.encode_image(torch.tensor(pixels.transpose(0, 3, 1, 2)))
        texts = model.encode_text(torch.tensor(ids))
    return model, dict(ids=ids, end=end, pixels=pixels, images=images.numpy(), texts=texts.numpy())


def main() -> None:
    for seed, (name, config) in enumerate(CONFIGS.items()):
        folder = RECORDINGS / f"open_clip_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model, recorded = record(config, seed)
        tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
        safetensors.torch.save_file(tensors, folder / "open_clip_model.safetensors")
        written = dict(model_cfg=config, preprocess_cfg=PREPROCESS)
        (folder / "open_clip_config.json").write_text(json.dumps(written, indent=2) + "\n")
        tiny_clips.tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
        np.savez_compressed(folder / "features.npz", **recorded)


if __name__ == "__main__":
    main()
