"""The config.json of a CLIP, SigLIP or SigLIP 2 of any size."""

from __future__ import annotations

from typing import Any


def tower(width: int, layers: int, heads: int, mlp: int, **others: Any) -> dict:
    """A tower's section of a config.json."""
    sizes = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=mlp)
    return sizes | others


def clip(image: tuple, text: tuple, embed_dim: int, activation: str) -> dict:
    """The config.json of a CLIP: (width, layers, heads, mlp, pixels, patch) and (width, layers, heads)."""
    *sizes, pixels, patch = image
    return dict(
        model_type="clip",
        projection_dim=embed_dim,
        vision_config=tower(*sizes, image_size=pixels, patch_size=patch, hidden_act=activation),
        text_config=tower(*text, 4 * text[0], hidden_act=activation),
    )


def siglip(
    image: tuple, vocabulary: int, text: tuple = (), kind: str = "siglip", projection: int | None = None
) -> dict:
    """The config.json of a SigLIP: (width, layers, heads, mlp, pixels, patch); the text tower may be alike."""
    *sizes, pixels, patch = image
    text = text or tuple(sizes)
    size = dict(image_size=pixels) if kind == "siglip" else dict(num_patches=(pixels // patch) ** 2)
    return dict(
        model_type=kind,
        vision_config=tower(*sizes, patch_size=patch, **size),
        text_config=tower(*text, vocab_size=vocabulary, projection_size=projection or text[0]),
    )
