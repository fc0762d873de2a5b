"""Operations that the mathematics of the towers needs, and bytes that it moves, counted from sizes."""

from __future__ import annotations

from pini_jax.clip.architecture import Architecture, Transformer
from pini_jax.clip.prompts import Prompts


def blocks_flops(sizes: Transformer, tokens: int, keys: int) -> float:
    """2 L t (4 d^2 + 2 d m + 2 d n) for t tokens that see n keys each, masked ones included, in L layers.

    An addition and a multiplication are two. What is no product of matrices is not counted.
    """
    d = sizes.width
    return 2 * sizes.layers * tokens * (4 * d**2 + 2 * d * sizes.mlp_width + 2 * d * keys)


def image_flops(sizes: Architecture) -> float:
    """One image: patches, blocks, and the projection of one token."""
    image, d = sizes.image, sizes.image.transformer.width
    patches = 2 * image.num_patches * 3 * image.patch_size**2 * d
    tokens = image.num_patches + image.class_token
    return patches + blocks_flops(image.transformer, tokens, tokens) + 2 * d * sizes.embed_dim


def text_flops(sizes: Architecture, length: int) -> float:
    """One whole text of `length` tokens."""
    return blocks_flops(sizes.text.transformer, length, length) + _projection(sizes)


def prompts_flops(sizes: Architecture, packed: Prompts, attention: bool = True) -> float:
    """Texts that share a prefix: the prefix once, and rows of suffixes that see it and themselves."""
    (r, s), shared = packed.suffix.shape, len(packed.start) + len(packed.prefix)
    transformer = sizes.text.transformer
    blocks = blocks_flops(transformer, shared, attention * shared)
    blocks += blocks_flops(transformer, r * s, attention * (shared + s))
    return blocks + len(packed.end) * _projection(sizes)


def step_flops(sizes: Architecture, packed: Prompts) -> float:
    """Prompts forwards, and the gradient of their tokens; frozen weights want none.

    A product with frozen weights is as much again in the backward pass; each of attention's two products is twice
    that.
    """
    attention = prompts_flops(sizes, packed) - prompts_flops(sizes, packed, attention=False)
    return 2 * prompts_flops(sizes, packed) + attention


def step_bytes(sizes: Architecture, packed: Prompts, itemsize: int) -> float:
    """2 L (4 d^2 + 2 d m) + L t (27 d + 5 m) numbers for t tokens in L layers, on the same two ways.

    Products read their operands and write their results once; nothing else goes to memory. Attention is one
    product: it reads queries, keys and values, and in the backward pass the gradient too, for which it writes
    three. Of what the forward pass has computed, the backward pass reads these and the inputs of the MLP's
    non-linearity.
    """
    layers, d, m = (getattr(sizes.text.transformer, name) for name in ("layers", "width", "mlp_width"))
    tokens = len(packed.start) + len(packed.prefix) + packed.suffix.size
    return itemsize * layers * (2 * (4 * d**2 + 2 * d * m) + tokens * (27 * d + 5 * m))


def released_step_flops(sizes: Architecture, classes: int, images: int) -> float:
    """The step of the paper's code: whole texts of every class there and back, and images forwards."""
    length, transformer = sizes.text.context_length, sizes.text.transformer
    attention = blocks_flops(transformer, length, length) - blocks_flops(transformer, length, 0)
    return classes * (2 * text_flops(sizes, length) + attention) + images * image_flops(sizes)


def _projection(sizes: Architecture) -> float:
    return 2 * sizes.text.transformer.width * sizes.embed_dim
