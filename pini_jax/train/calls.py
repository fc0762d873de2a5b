"""Calls of the compiled steps: which steps of which runs each has, and their batches, read ahead of the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax

from pini_jax.core import mesh as meshes
from pini_jax.methods.method import Batch
from pini_jax.train import lanes
from pini_jax.train.group import Group, batch_size
from pini_jax.train.lanes import BatchTable
from pini_jax.train.progress import StepCounter
from pini_jax.train.schedule import Turn, Turns, cut

SECONDS = 0.25  # of a call of more than one step: a stop waits for no more than a few
PREFETCH = 4


class Call(NamedTuple):
    """Which run takes which step in each lane, tick by tick, and the batches."""

    ticks: Sequence[Turns]
    table: BatchTable

    @property
    def turns(self) -> list[tuple[int, int, Turn]]:
        """All (number of the tick, lane, turn), in order."""
        return [(i, lane, turn) for i, turns in enumerate(self.ticks) for lane, turn in enumerate(turns) if turn]


def calls(group: Group, progress: StepCounter) -> Iterator[Call]:
    """Every call that advances a run, with its batches; each ends where a checkpoint of one of them is due."""

    def is_saved(turn: Turn) -> bool:
        return group.trainees[turn.run].recorder.saves(turn.step + 1)

    pieces = cut(group.timetable(), is_saved, lambda: most_ticks(group, progress.rate))
    for call in prefetch(lambda ticks: Call(ticks, read_batches(group, ticks)), pieces):
        if not all(group.trainees[turn.run].recorder.problem for _, _, turn in call.turns):
            yield call


def most_ticks(group: Group, rate: float) -> int:
    """The maximal number of ticks of the next call, where all lanes together take `rate` steps per second.

    It depends on the clock, but nothing that is computed depends on it.
    """
    if group.most == 1:
        return 1
    return max(1, min(group.most, int(meshes.broadcast_from_first(SECONDS * rate / group.width))))


def read_batches(group: Group, ticks: Sequence[Turns]) -> BatchTable:
    """The batches of every tick, lane by lane."""
    mesh = group.runs[0].shared.mesh
    rows = [read_tick(group, turns) for turns in ticks]
    return lanes.stack_batches(mesh, rows, batch_size(group.runs), group.most)


def read_tick(group: Group, turns: Turns) -> list[Batch]:
    """The batch of every lane; one without a run gets another one's."""
    batches = [turn and group.trainees[turn.run].read(turn.step) for turn in turns]
    another = next(batch for batch in batches if batch)
    return [batch or another for batch in batches]


def prefetch(read: Callable[[Sequence[Turns]], Call], pieces: Iterator[Sequence[Turns]]) -> Iterator[Call]:
    """read(ticks) of every piece of a timetable, made ahead in a thread while the device works."""
    if jax.process_count() > 1:
        # Processes must start what they compute together in one order.
        yield from map(read, pieces)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[Call]] = deque()
        for ticks in pieces:
            waiting.append(pool.submit(read, ticks))
            if len(waiting) > PREFETCH:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
