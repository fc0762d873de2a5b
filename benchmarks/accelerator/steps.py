"""Many text steps in a call, one after another, of one member or of several side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.text import Variant, text_step
from benchmarks.accelerator.work import Work, work

SECONDS = 0.25  # of a call, as training has it


def loop(call: Callable[..., Any]) -> Callable[..., Any]:
    """As training takes them (`train.lanes.take_steps`): so many of the keys' steps as the last argument says."""

    def body(phi: Any, theta: Any, text: Any, batch: Any, keys: Any, steps: Any) -> tuple[Any, Any]:
        def one(i: Any, taken: tuple[Any, Any]) -> tuple[Any, Any]:
            phi, losses = taken
            phi, loss = call(phi, theta, text, batch, keys[i])
            return phi, losses.at[i].set(loss)

        return jax.lax.fori_loop(0, steps, one, (phi, jnp.zeros(keys.shape)))

    return body


def scan(call: Callable[..., Any]) -> Callable[..., Any]:
    """As many as there are keys, which the compiler knows."""

    def body(phi: Any, theta: Any, text: Any, batch: Any, keys: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda phi, key: call(phi, theta, text, batch, key), phi, keys)

    return body


@functools.cache
def loop_work(variant: Variant, members: int, most: int) -> Work:
    """A step, and room for so many more in a call; a member alone has no lanes to compute over."""
    step = text_step(variant)
    phi, theta, text, batch, key = step.arguments
    if members == 1:
        return work(loop(step.call), phi, theta, text, batch, jax.random.split(key, most), np.int32(1))
    phi, batch = jax.tree.map(lambda x: np.stack([x] * members), (phi, batch))
    lanes = jax.vmap(step.call, in_axes=(0, None, None, 0, 0))
    return work(loop(lanes), phi, theta, text, batch, jax.random.split(key, (most, members)), np.int32(1))


def scan_work(variant: Variant, steps: int) -> Work:
    """So many steps of a member alone."""
    step = text_step(variant)
    *rest, key = step.arguments
    return work(scan(step.call), *rest, jax.random.split(key, steps))


def seconds_of_step(looped: Work, most: int) -> tuple[float, int]:
    """Of a step of a `loop_work`, and how many were in a call: as many as training would take."""
    *rest, _ = looped.arguments

    def of(steps: int) -> Work:
        return looped._replace(arguments=(*rest, jax.device_put(np.int32(steps))))

    of(1).sample(1)  # warms up
    steps = max(1, min(most, int(SECONDS / of(1).sample(1))))
    return of(steps).seconds() / steps, steps
