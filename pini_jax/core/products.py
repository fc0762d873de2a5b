"""Products in full float32, whose inputs accelerators round unless told: for all that is cheap beside the towers.

The towers' own products, and those that make changed weights for them, are as the device has them for their dtype.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
