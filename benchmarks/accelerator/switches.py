"""What remat, packed rows, many steps per call and flash attention are worth."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from unittest import mock

from benchmarks.accelerator.images import image_work
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.steps import loop_work, scan_work, seconds_of_step
from benchmarks.accelerator.tasks import Task
from benchmarks.accelerator.text import Variant, text_step, text_works
from benchmarks.accelerator.work import Ahead, Row, tower_dtype
from pini_jax.clip import attention, prompts

ROWS = (0, 32, prompts.ROW, 128, 256)  # tokens; 0 is a row for every class


def tasks(scale: Scale) -> Iterator[Task]:
    """A step, or a batch of images, with each switch as it may stand."""
    standard, most = Variant(scale.texts[0], min(100, max(scale.classes))), scale.steps
    switched = [("remat", remat, standard._replace(remat=remat)) for remat in (False, True)]
    switched += [("tokens of a row", row, standard._replace(row=row)) for row in ROWS]
    makers = text_works(variant for *_, variant in switched)
    makers["scan"] = functools.partial(scan_work, standard, most)
    makers["loop"] = functools.partial(loop_work, standard, 1, most)
    works = Ahead(makers, first=functools.partial(text_step, standard))
    told = dict(tower=standard.tower, classes=standard.classes)
    for switch, on, variant in switched:
        yield Task(dict(switch=switch, on=on) | told, functools.partial(measure, works, variant))
    yield Task(dict(switch="steps of a call") | told, functools.partial(measure_calls, works, standard, most))
    yield Task(dict(switch="flash", tower=scale.images[0]), functools.partial(measure_flash, scale))


def measure(works: Ahead, variant: Variant) -> Iterator[Row]:
    """Milliseconds of a step."""
    yield works[variant].measured


def measure_calls(works: Ahead, variant: Variant, most: int) -> Iterator[Row]:
    """A step to a call; and many, by a scan and as training has them."""
    yield dict(on=1, ms=1e3 * works[variant].seconds())
    yield dict(on=most, by="scan", ms=1e3 * works["scan"].seconds() / most)
    seconds, steps = seconds_of_step(works["loop"], most)
    yield dict(on=steps, by="loop", ms=1e3 * seconds)


def measure_flash(scale: Scale) -> Iterator[Row]:
    """The image tower with XLA's attention and with cuDNN's."""
    name = scale.images[0]
    sizes = SIZES[name].image.transformer
    if not attention._has_flash(tower_dtype(), sizes.width // sizes.heads):
        yield dict(left_out="no flash attention on this device")
        return
    with mock.patch.object(attention, "_has_flash", lambda dtype, channels: False):
        yield dict(on=False) | image_work.__wrapped__(name, scale.batch).measured
    yield dict(on=True) | image_work(name, scale.batch).measured
