"""What the two towers of a frozen CLIP make together: text features of packed prompts, and logits."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.clip.prompts import Prompts
from pini_jax.clip.towers import TextTower, stage
from pini_jax.core.products import einsum
from pini_jax.core.shapes import Parameters

# Of suffixes, on one CPU: more of them leave its caches. Every part runs the prefix again, which is little.
ROWS_AT_ONCE = 72


def embed_prompts(
    text_tower: TextTower, theta: Parameters, prompts: Prompts
) -> tuple[Float[Array, "1 q d"], Float[Array, "r s d"]]:
    """Embeds prompts: the start tokens with the prefix that all classes share, and rows of suffixes."""
    shared = jnp.concatenate([prompts.start, prompts.prefix])
    prefix = stage(text_tower, "embed", theta["text"], shared)[None]
    return prefix, stage(text_tower, "embed", theta["text"], prompts.suffix, len(shared) + prompts.place)


def encode_prompts(
    text_tower: TextTower,
    theta: Parameters,
    prefix: Float[Array, "k *r q d"],
    suffix: Float[Array, "r s d"],
    prompts: Prompts,
) -> Float[Array, "k c e"]:
    """Text features of every class for every draw of the prefix, un-normalised."""

    def encode(rows: tuple[Array, Array]) -> Float[Array, "k r s d"]:
        return stage(text_tower, "encode_suffixes", theta["text"], prefix, *rows)

    rows = suffix, jnp.asarray(prompts.owner)
    if len(suffix) > ROWS_AT_ONCE and _is_one_cpu() and prefix.ndim == 3:
        parts = jax.lax.map(encode, jax.tree.map(_in_parts, rows))
        tokens = jnp.moveaxis(parts, 0, 1)
    else:
        tokens = encode(rows)
    ends = tokens.reshape(len(prefix), -1, tokens.shape[-1])[:, prompts.end]
    return stage(text_tower, "project", theta["text"], ends)


@functools.partial(jax.jit, static_argnums=0)
def encode_classes(text_tower: TextTower, theta: Parameters, prompts: Prompts) -> Float[Array, "1 c e"]:
    """Text features of every class, un-normalised."""
    return encode_prompts(text_tower, theta, *embed_prompts(text_tower, theta, prompts), prompts)


def ensemble(texts: Sequence[Float[Array, "1 c e"]]) -> Float[Array, "1 c e"]:
    """mean_t T(prompt_t) / |T(prompt_t)| of several templates; one alone stays as it is.

    Source: Radford et al. 2021, Section 3.1.4 (prompt ensembling).
    """
    return texts[0] if len(texts) == 1 else jnp.stack([normalise(text) for text in texts]).mean(0)


def _is_one_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _in_parts(x: Array) -> Array:
    """Parts of one size, of which the last is filled up with the last row."""
    size = -(-len(x) // -(-len(x) // ROWS_AT_ONCE))
    filled = jnp.concatenate([x, jnp.repeat(x[-1:], -len(x) % size, axis=0)])
    return filled.reshape(-1, size, *x.shape[1:])


def normalise(x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """x / |x| along the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def cosine_logits(
    theta: Parameters, images: Float[Array, "n _ b e"], text: Float[Array, "_ c e"]
) -> Float[Array, "n _ b c"]:
    """exp(s) cos(image, text) + b, in float32; b is the bias of a CLIP that has one.

    Classes exclude each other here: probabilities are a softmax over them, which b does not change.
    """
    images, text = normalise(images), normalise(text)
    cosine = einsum("nkbe,kce->nkbc", images, text)
    logits = jnp.exp(theta["logit_scale"]) * cosine
    return logits + theta["logit_bias"] if "logit_bias" in theta else logits
