"""Positional embeddings for another image size than the one a CLIP was trained on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pini_jax.core.products import einsum


def _cubic(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Keys' cubic convolution with a = -3/4, as PyTorch interpolates."""
    a, x = -0.75, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """W[i, j] = cubic((i + 1/2) old / new - 1/2 - j); outside, the border is repeated; shrinking smooths nothing.

    Source: torch.nn.functional.interpolate(mode="bicubic", align_corners=False).
    """
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(centre).astype(int)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((new, old))
    rows = np.broadcast_to(np.arange(new)[:, None], taps.shape)
    np.add.at(matrix, (rows, taps.clip(0, old - 1)), _cubic(centre[:, None] - taps))
    return matrix


def linear(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Linear interpolation, smoothed where it shrinks.

    Source: torch.nn.functional.interpolate(mode="bilinear", align_corners=False, antialias=True).
    """
    return np.asarray(jax.image.resize(np.eye(old), (new, old), "linear", antialias=True))


FILTERS = {"bicubic": bicubic, "linear": linear}


def resample(position: Float[Array, "n d"], old: int, new: int, name: str = "bicubic") -> Float[Array, "m d"]:
    """P'_{yx} = sum_{vu} W_yv W_xu P_vu: a grid of old x old positions becomes new x new; others before it stay.

    Args:
        name: of the filter W, a key of `FILTERS`.

    Source: transformers' interpolate_pos_encoding.
    """
    others = position.shape[0] - old**2
    matrix = jnp.asarray(FILTERS[name](old, new), jnp.float32)
    grid = position[others:].astype(jnp.float32).reshape(old, old, -1)
    grid = einsum("yv,xu,vud->yxd", matrix, matrix, grid)
    return jnp.concatenate([position[:others], grid.reshape(new**2, -1).astype(position.dtype)])
