"""Sizes of the CLIPs that are measured."""

from __future__ import annotations

from benchmarks.inputs import VIT_B_16
from pini_jax.clip.architecture import Architecture, Image, TextSizes, Transformer

L_14_TEXT = TextSizes(49408, 77, Transformer(768, 12, 12, 3072, causal=True))
L_14_LAYERS = Transformer(1024, 24, 16, 4096)
TINY_TEXT = TextSizes(700, 77, Transformer(16, 2, 2, 48, causal=True))
SIZES = {
    "B/16": VIT_B_16,
    "L/14": Architecture(Image(224, 14, L_14_LAYERS), L_14_TEXT, 768),
    "L/14-336": Architecture(Image(336, 14, L_14_LAYERS), L_14_TEXT, 768),
    "tiny": Architecture(Image(12, 4, Transformer(32, 2, 2, 96)), TINY_TEXT, 24),
}
