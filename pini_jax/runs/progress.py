"""How far a sweep is, from what lies in its folder alone: the plan, and the claims of its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from pini_jax.core.bucket import at_once
from pini_jax.core.store import Store
from pini_jax.runs import claims
from pini_jax.runs.claims import RETRIES, Claim, Standing
from pini_jax.runs.plan import Plan


class Running(NamedTuple):
    """A unit in training, and its worker's last report: steps of all its runs, and their rate."""

    unit: int
    worker: str
    step: int
    steps: int
    rate: float


class Progress(NamedTuple):
    """The progress of a sweep: how many runs are in which state.

    Attributes:
        failed: {name: why} of those that nobody tries again unless asked to.
        seconds_left: at the rate of all workers together until now; None before two units are finished.
    """

    runs: int
    finished: int
    waiting: int
    failed: Mapping[str, str]
    running: Sequence[Running]
    seconds_left: float | None

    @property
    def num_running(self) -> int:
        """Runs of all units that are being trained."""
        return self.runs - self.finished - self.waiting - len(self.failed)


def read_progress(plan: Plan, store: Store, retries: int = RETRIES, not_before: float = 0.0) -> Progress:
    """Reads the claims: a request for every hundred units, for every worker and for every unit that failed.

    What was written last tells the time, by the store's clock.

    Args:
        retries: how often workers try again what has failed.
        not_before: a time that is over by the store's clock, in seconds: the last worker may be long gone.
    """
    lease = claims.agreed_lease(store)
    shards = [claims.shard_key(shard) for shard in range(claims.num_shards(len(plan.units)))]
    listed = at_once(store.times, shards)
    known = {unit: own for times in listed for unit, own in claims.standings(times).items()}
    ends = sorted(
        (written, int(name.partition(".")[0]))
        for times in listed
        for name, written in times.items()
        if name.endswith(".finished")
    )
    now = max((not_before, *(written for times in listed for written in times.values())))

    finished = [unit for unit, own in known.items() if own.finished]
    failed = [unit for unit, own in known.items() if own.failed(retries)]
    running = [
        unit
        for unit, own in known.items()
        if not (own.ended or own.finished or own.failed(retries)) and now - own.renewed <= lease
    ]
    reasons = reasons_of(store, plan, {unit: known[unit] for unit in failed})
    done = sum(len(plan.units[unit]) for unit in finished + failed) - len(reasons)
    return Progress(
        runs=len(plan.runs),
        finished=done,
        waiting=len(plan.runs) - done - len(reasons) - sum(len(plan.units[unit]) for unit in running),
        failed=reasons,
        running=at_once(lambda unit: _running(store, unit, known[unit]), running),
        seconds_left=_seconds_left(plan, {*finished, *failed}, ends),
    )


def _running(store: Store, unit: int, standing: Standing) -> Running:
    said = claims.parse_object(store, Claim(unit, standing.number).key())
    return Running(
        unit, said.get("worker", ""), said.get("step", 0), said.get("steps", 0), round(said.get("rate", 0.0), 2)
    )


def reasons_of(store: Store, plan: Plan, failed: Mapping[int, Standing]) -> dict[str, str]:
    """Why runs of some units have no result; those of a unit that only lost its workers are lost with it."""
    keys = [Claim(unit, standing.failed_last).key("failed") for unit, standing in failed.items()]
    found: dict[str, str] = {}
    for unit, said in zip(failed, at_once(lambda key: claims.parse_object(store, key), keys), strict=True):
        lost = "its workers were lost again and again before the first step: killed, or out of memory"
        found |= said.get("failed") or {run.name: lost for run in plan.units[unit]}
    return found


def _seconds_left(plan: Plan, over: Set[int], ends: Sequence[tuple[float, int]]) -> float | None:
    """By the costs of what is left and of what was finished after the first unit, if all goes on like that.

    Args:
        over: units that are finished or have failed.
        ends: (when, unit) of those that are finished, in order.
    """
    costs = [sum(run.cost for run in runs) for runs in plan.units]
    left = sum(cost for unit, cost in enumerate(costs) if unit not in over)
    gone = sum(costs[unit] for unit in {unit for _, unit in ends[1:]})
    if not left:
        return 0.0
    return left * (ends[-1][0] - ends[0][0]) / gone if gone else None


def as_dict(progress: Progress) -> dict[str, Any]:
    """The progress for programs, as JSON."""
    content = progress._asdict() | {"running": [running._asdict() for running in progress.running]}
    return content | {"num_running": progress.num_running}
