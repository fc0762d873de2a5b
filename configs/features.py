"""Precomputed features: image noise alone, without towers.

    pini train --config=features:path=dtd_vitb32.npz --workdir=runs/features

The keys of the .npz file are in `pini_jax/data/datasets/packs.py`, selections in `pini_jax/data/selection.py`.
Expected with CLIP ViT-B/32's features of DTD: 44.7 % zero-shot.
"""

from pini_jax.config import default, take_argument, with_arguments


def get_config(arguments: str = ""):
    path, others = take_argument(arguments, "path")
    config = default()
    config.dataset = f"features:{path}"
    config.clip = ""
    config.views = 1
    del config.noise["prompt_tokens"]
    return with_arguments(config, others)
