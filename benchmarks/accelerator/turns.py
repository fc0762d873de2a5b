"""Work of this process and of another, in turn, so that a drift of the machine meets both."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.accelerator.work import Work
from benchmarks.timing import Worker

OURS = "ours"
ROUNDS = 5


def medians(ours: Work, worker: Worker, works: Sequence[str]) -> dict[str, float]:
    """Milliseconds of ours and of each of the worker's, which have warmed up; each call is waited for."""
    ours.sample(1)
    rounds = [{OURS: ours.sample(1)} | {name: worker.seconds(name) for name in works} for _ in range(ROUNDS)]
    return {name: 1e3 * statistics.median(taken[name] for taken in rounds) for name in rounds[0]}
