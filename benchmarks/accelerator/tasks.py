"""What a phase measures, piece by piece: what fails, or comes too late, costs no other piece."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks import timing
from benchmarks.accelerator.work import Row

FRAMES = 4  # of a trace, the last ones
LETTERS = 500  # of a message
T = TypeVar("T")


class Task(NamedTuple):
    """A piece of a phase.

    Attributes:
        told: what it measures, in each of its rows.
        rows: measures it. Nothing is begun for it before.
    """

    told: Row
    rows: Callable[[], Iterable[Row]]


def run(tasks: Iterable[Task], until: float, write: Callable[[Row], None]) -> None:
    """Writes the rows of all that can begin before the process has that age, and a row that names the others."""
    late = []
    for task in tasks:
        if timing.age() >= until:
            late.append(task.told)
            continue
        try:
            for row in task.rows():
                write(task.told | row)
        except Exception as error:  # of a device that nobody has seen: what comes after is worth having
            write(task.told | failure(error))
    if late:
        write(dict(left_out=f"not begun before {until:.0f} seconds", rows=late))


def failure(error: Exception) -> Row:
    """Why something is left out, and where that was."""
    if isinstance(error, ModuleNotFoundError):
        return dict(left_out=f"{error.name} is missing")
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    trace = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return dict(left_out=f"{type(error).__name__}: {str(error)[:LETTERS]}", trace=trace)


def once(make: Callable[[], T]) -> Callable[[], T]:
    """Makes it when it is first asked for; an error is kept as well."""
    made: Future[T] = Future()

    def get() -> T:
        if not made.done():
            try:
                made.set_result(make())
            except Exception as error:
                made.set_exception(error)
        return made.result()

    return get
