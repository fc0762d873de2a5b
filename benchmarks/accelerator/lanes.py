"""Members of a population side by side in one text step, with as many steps in a call as training takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.steps import loop_work, seconds_of_step
from benchmarks.accelerator.tasks import Task, once
from benchmarks.accelerator.text import Variant, text_step
from benchmarks.accelerator.work import Ahead, Row


def tasks(scale: Scale) -> Iterator[Task]:
    """By numbers of classes and members."""
    name, most = scale.texts[0], scale.steps
    for classes in scale.lane_classes:
        variant, members = Variant(name, classes), (1, *scale.lanes)
        makers = {number: functools.partial(loop_work, variant, number, most) for number in members}
        works = Ahead(makers, first=functools.partial(text_step, variant))
        alone = once(lambda works=works: seconds_of_step(works[1], most))
        for number in scale.lanes:
            told = dict(classes=classes, members=number)
            yield Task(told, functools.partial(measure, works, alone, number, most))


def measure(works: Ahead, alone: Callable[[], tuple[float, int]], members: int, most: int) -> Iterator[Row]:
    """Milliseconds per member and step, and how often faster than one after another that is."""
    one, steps_alone = alone()
    seconds, steps = seconds_of_step(works[members], most)
    each, memory = seconds / members, works[members].compiled.memory_analysis()
    told = dict(ms=1e3 * each, steps=steps, alone_ms=1e3 * one, alone_steps=steps_alone, ratio=one / each)
    yield told | dict(temporary_mb=memory.temp_size_in_bytes / 1e6 if memory else None)
