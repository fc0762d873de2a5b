"""Which run takes a step when, and in which call: runs of different length in a few lanes, none of which waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """A step of a run; `opens` where the run comes into its lane with it."""

    run: int
    step: int
    opens: bool


Turns = Sequence[Turn | None]  # of every lane at a tick; None where it has no run left


def num_busy_lanes(lengths: Sequence[int]) -> int:
    """The number of lanes that keep each other busy: sum_i n_i / max_i n_i, rounded up, for runs of n_i steps."""
    longest = max(lengths, default=0)
    return -(-sum(lengths) // longest) if longest else 0


def assign(lengths: Sequence[int], lanes: int) -> list[list[int]]:
    """The runs of every lane, in order: the longest first, each to the lane that is free first.

    Source: Graham 1969, https://doi.org/10.1137/0117039.

    Args:
        lengths: the steps of each run.
    """
    queues: list[list[int]] = [[] for _ in range(lanes)]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        min(queues, key=lambda queue: sum(lengths[j] for j in queue)).append(i)
    return queues


def timetable(lengths: Sequence[int], starts: Sequence[int], lanes: int) -> Iterator[Turns]:
    """The turn of every lane at every tick.

    A run keeps its lane whatever has been done before: lanes follow from `lengths`, not from `starts`.

    Args:
        lengths: the steps of each run.
        starts: how many of them have been taken before.
    """
    turns = [
        [Turn(i, step, step == starts[i]) for i in queue for step in range(starts[i], lengths[i])]
        for queue in assign(lengths, lanes)
    ]
    for tick in range(max(map(len, turns), default=0)):
        yield tuple(queue[tick] if tick < len(queue) else None for queue in turns)


def cut(table: Iterable[Turns], ends: Callable[[Turn], bool], length: Callable[[], int]) -> Iterator[list[Turns]]:
    """Cuts a timetable into calls.

    Args:
        ends: whether a turn ends a call; the last one of every run does, so that runs come in with a call's first.
        length: how many ticks the next call has at most.
    """
    call, most = list[Turns](), length()
    for turns in table:
        call.append(turns)
        if len(call) == most or any(ends(turn) for turn in turns if turn):
            yield call
            call, most = [], length()
