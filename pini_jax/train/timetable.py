"""Which run takes a step when: many runs of different length in a few lanes, none of which waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """A step of a run; `opens` where the run comes into its lane with it."""

    run: int
    step: int
    opens: bool


def num_lanes(spans: Sequence[range]) -> int:
    """As many as keep each other busy: sum_i |span_i| / max_i |span_i|, rounded up."""
    longest = max(map(len, spans), default=0)
    return -(-sum(map(len, spans)) // longest) if longest else 0


def timetable(spans: Sequence[range], lanes: int) -> Iterator[tuple[Turn | None, ...]]:
    """At every tick the turn of every lane; None where a lane has no run left.

    The longest runs first, each to the lane that is free first (Graham 1969, https://doi.org/10.1137/0117039).

    Args:
        spans: the steps that each run has to take.
    """
    queues: list[list[int]] = [[] for _ in range(lanes)]
    for i in sorted(range(len(spans)), key=lambda i: -len(spans[i])):
        min(queues, key=lambda queue: sum(len(spans[j]) for j in queue)).append(i)
    turns = [[Turn(i, step, step == spans[i].start) for i in queue for step in spans[i]] for queue in queues]
    for tick in range(max(map(len, turns), default=0)):
        yield tuple(queue[tick] if tick < len(queue) else None for queue in turns)
