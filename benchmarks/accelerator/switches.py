"""What remat, packed rows, many steps per call and flash attention are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax

from benchmarks.accelerator.images import image_work
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.text import text_step
from benchmarks.accelerator.work import Row, tower_dtype, work
from pini_jax.clip import attention


def measure(scale: Scale) -> Iterator[Row]:
    """Milliseconds of a step, or of a batch of images, with a switch on and off."""
    name, classes = scale.texts[0], min(100, max(scale.classes))
    told = dict(tower=name, classes=classes)
    for switch in ("remat", "packed"):
        for on in (False, True):
            step = text_step(name, classes, **{switch: on})
            yield dict(switch=switch, on=on) | told | work(step.call, *step.arguments).measured
    step = text_step(name, classes)
    for steps in (1, scale.steps):
        each = work(many(step.call, steps), *step.arguments).seconds() / steps
        yield dict(switch="steps per call", on=steps) | told | dict(ms=1e3 * each)
    yield from measure_flash(scale)


def many(call: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """So many steps, one after another within one call."""

    def body(phi: Any, theta: Any, text: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda phi, key: call(phi, theta, text, batch, key), phi, jax.random.split(key, steps))

    return body


def measure_flash(scale: Scale) -> Iterator[Row]:
    """The image tower with cuDNN's attention and with XLA's."""
    name, has_flash = scale.images[0], attention._has_flash
    heads = SIZES[name].image.transformer
    if not has_flash(tower_dtype(), heads.width // heads.heads):
        yield dict(switch="flash", left_out="no flash attention on this device")
        return
    try:
        for on in (False, True):
            attention._has_flash = has_flash if on else lambda dtype, channels: False  # type: ignore[assignment]
            yield dict(switch="flash", on=on, tower=name) | image_work(name, scale.batch).measured
    finally:
        attention._has_flash = has_flash
