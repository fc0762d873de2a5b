"""Attention of several heads over sequences, by the fastest exact implementation at hand."""

from __future__ import annotations

import functools
import logging

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LOG = logging.getLogger(__name__)
FLASH_DTYPES = (jnp.bfloat16, jnp.float16)
FLASH_CHANNELS = 8  # of a head: a multiple of these


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
    flash = mask is None and _has_flash(query.dtype, query.shape[-1])
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if mask is None else mask[:, None],
        is_causal=causal,
        implementation="cudnn" if flash else None,
    )


@functools.cache
def _has_flash(dtype: jnp.dtype, channels: int) -> bool:
    """Whether cuDNN's flash attention compiles here, forwards and backwards; it takes 16-bit numbers alone."""
    if jax.default_backend() != "gpu" or dtype not in FLASH_DTYPES or channels % FLASH_CHANNELS:
        return False
    flash = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    abstract = jax.ShapeDtypeStruct((1, 64, 1, channels), dtype)
    try:
        jax.jit(jax.grad(lambda *qkv: flash(*qkv).astype(jnp.float32).sum())).lower(*[abstract] * 3).compile()
    except Exception as error:  # what cuDNN lacks is said in errors of many kinds
        LOG.info("no flash attention on this GPU (%s): attention is compiled by XLA", str(error).split("\n")[0])
        return False
    return True
