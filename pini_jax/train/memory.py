"""What a step stores for the backward pass, and how much of it a device holds: estimates from sizes alone.

No clock and no reading of free memory: the same config on the same kind of device is compiled to the same program,
so that a run repeated or resumed gives the same bits.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pini_jax.methods.method import Method, Text

# What of an accelerator's memory the layers of a step may fill.
SHARE = 0.5
SMALLEST = 2**34
# A CPU's allocator returns what is larger to the system, and new pages take as long as computing a layer again.
CPU_ROOM = 2**25
# Tokens in a step beyond which a CPU's matrix products gain nothing from more rows (`benchmarks.population`).
CPU_TOKENS = 2048


def room() -> float:
    """Bytes on all devices beyond which layers are recomputed."""
    if jax.default_backend() == "cpu":
        return CPU_ROOM
    return SHARE * device_bytes() * jax.device_count()


def device_bytes() -> int:
    """Memory of a device that JAX may use; where JAX does not know, that of the smallest accelerator."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", SMALLEST)


def most_lanes(method: Method, text: Text, images: int) -> int:
    """How many runs a step may hold side by side; at least one.

    Args:
        images: of one run's step, every draw counted.
    """
    tokens = sum(count for count, _ in _kept(method, text, images))
    if not tokens:
        return 2**30  # features alone: nothing to speak of
    if jax.default_backend() == "cpu":
        # Kernels of their own in every lane make one convolution of groups, and XLA's takes five times as long.
        return 1 if method.traits.convolves else max(1, CPU_TOKENS // tokens)
    return max(1, int(room() // kept_bytes(method, text, images)))


def kept_bytes(method: Method, text: Text, images: int) -> int:
    """Estimate of what the backward pass needs, on all devices: per token and layer 9 widths, and 4 of the MLP.

    Args:
        images: in a step, every draw counted.
    """
    return sum(tokens * _bytes_per_token(tower) for tokens, tower in _kept(method, text, images))


def _kept(method: Method, text: Text, images: int) -> list[tuple[int, Any]]:
    """(tokens, tower) of every tower of equal layers that the gradient goes through."""
    kept: list[tuple[int, Any]] = []
    if (prompts := text.prompts) is not None:
        kept.append((prompts.suffix.size + len(prompts.start) + len(prompts.prefix), method.text_tower))
    tower: Any = method.image_tower
    if method.traits.reads == "pixels" and hasattr(tower, "remat"):
        kept.append((images * (tower.sizes.num_patches + 1), tower))
    return kept


def _bytes_per_token(tower: Any) -> int:
    sizes = tower.sizes.transformer
    return sizes.layers * (9 * sizes.width + 4 * sizes.mlp_width) * jnp.dtype(tower.dtype).itemsize
