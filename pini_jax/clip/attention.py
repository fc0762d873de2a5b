"""Attention of several heads over sequences, by the fastest exact implementation at hand."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LOG = logging.getLogger(__name__)
FLASH_DTYPES = (jnp.bfloat16, jnp.float16)
FLASH_CHANNELS = 8  # of a head: a multiple of these
FLASH_TOKENS = 32  # of shorter sequences cuDNN's tiles are mostly empty


def attend(
    query: Float[Array, "*b q h z"],
    key: Float[Array, "*b j h z"],
    value: Float[Array, "*b j h z"],
    mask: Bool[Array, "b q j"] | None = None,
    causal: bool = False,
) -> Float[Array, "*b q h z"]:
    """softmax(q k^T / sqrt(z)) v for every head h; the softmax is in float32.

    Args:
        mask: where a query sees a key, for the last of the leading axes; the others share it.
        causal: whether a query sees only keys that do not stand after it.
    """
    if query.ndim > 4:
        over_rest = jax.vmap(lambda q, k, v: attend(q, k, v, mask, causal))
        return over_rest(query, key, value)
    long = min(query.shape[1], key.shape[1]) >= FLASH_TOKENS
    if mask is None and long and _has_flash(query.dtype, query.shape[-1]):
        return _flash(query, key, value, causal)
    heads = None if mask is None else mask[:, None]
    return jax.nn.dot_product_attention(query, key, value, mask=heads, is_causal=causal)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _flash(query: Array, key: Array, value: Array, causal: bool) -> Array:
    """By cuDNN."""
    return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation="cudnn")


def _flash_with_gradient(query: Array, key: Array, value: Array, causal: bool) -> tuple[Array, Callable[..., Any]]:
    """The same with even lengths: under a gradient JAX refuses odd ones, which it does for the sake of a bias."""

    def even(query: Array, key: Array, value: Array) -> Array:
        queries, keys, values = (
            jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
        )
        lengths: tuple[Array | None, Array | None] = None, None
        if query.shape[1] % 2 or key.shape[1] % 2:
            # They depend on the query: under vmap jax 0.10 has no lengths that are the same for all.
            zeros = 0 * query[:, 0, 0, 0].astype(jnp.int32)
            lengths = zeros + queries.shape[1], zeros + key.shape[1]
        attended = jax.nn.dot_product_attention(
            queries,
            keys,
            values,
            is_causal=causal,
            query_seq_lengths=lengths[0],
            key_value_seq_lengths=lengths[1],
            implementation="cudnn",
        )
        return attended[:, : query.shape[1]]

    return jax.vjp(even, query, key, value)


_flash.defvjp(_flash_with_gradient, lambda causal, back, gradient: back(gradient))


@functools.cache
def _has_flash(dtype: jnp.dtype, channels: int) -> bool:
    """Whether cuDNN's flash attention compiles here, forwards and backwards; it takes 16-bit numbers alone."""
    if jax.default_backend() != "gpu" or dtype not in FLASH_DTYPES or channels % FLASH_CHANNELS:
        return False
    abstract = jax.ShapeDtypeStruct((1, FLASH_TOKENS + 1, 1, channels), dtype)
    try:
        loss = jax.grad(lambda *qkv: _flash(*qkv, False).astype(jnp.float32).sum())
        jax.jit(loss).lower(*[abstract] * 3).compile()
    except Exception as error:  # what cuDNN lacks is said in errors of many kinds
        LOG.info("no flash attention on this GPU (%s): attention is compiled by XLA", str(error).split("\n")[0])
        return False
    return True
