"""Who does what where many workers share some units of work without a server: claims with a lease.

Everything is a small object of a store, in `claims/SHARD/`, a folder for every hundred units:

| object                | what                                                                                 |
|-----------------------|--------------------------------------------------------------------------------------|
| `000012.003.claim`    | the third claim on unit 12: its worker, which writes it again as long as it works     |
| `000012.003.finished` | the unit is done                                                                     |
| `000012.003.failed`   | there is no result, and why                                                          |
| `000012.003.stopped`  | the worker was asked to stop: somebody else may go on                                |
| `000012.003.lost`     | the worker was gone before it had taken a step; of use to count such losses           |

Of the claims on a unit the newest holds. One that has not been written for the length of the lease, by the store's
own clock, is over: whoever comes creates the next one, if absent, and of several that try one succeeds. A worker
that has slept finds that its claim is not the newest any more. Names and times say all that a worker has to know,
so that one listing answers for a hundred units. All begin with the first folder, where costly units are, and
`finished/SHARD` spares those that come later the folders in which every unit is finished.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from math import inf
from typing import Any, NamedTuple

from pini_jax.core.errors import InputError
from pini_jax.core.store import Store

LEASE = 60.0  # seconds
RETRIES = 1  # of a unit that has failed
RENEWALS = 4  # in the time of a lease
SHARD = 100  # units in a folder: a page of an object store's list has a thousand names
MOST_LOST = 5  # workers in a row that a unit may cost before they have taken a step: then it is what kills them
LOOKS = 8  # folders that an idle worker looks into at a time
NEAR = 8  # of the free units of a folder, which are in order of their costs, a worker tries one of the first
FINISHED = "finished"  # the folder that names the folders that are
LEASE_KEY = "lease"  # the object that says what all workers have agreed on
MEASURED = 600.0  # seconds between two readings of the store's clock
KINDS = ("claim", "finished", "failed", "stopped", "lost")


class Claim(NamedTuple):
    """The claim of this number on a unit; the first has number 1."""

    unit: int
    number: int

    def key(self, kind: str = "claim") -> str:
        """The key of the object of this kind."""
        return f"{shard_key(self.unit // SHARD)}/{self.unit:06d}.{self.number:03d}.{kind}"


class Standing(NamedTuple):
    """The state of a unit, by the names of its objects.

    Attributes:
        number: of the newest claim; 0 where there is none.
        renewed: when that was written.
        ended: whether its worker has said how it ended.
        failures: claims that ended so.
        losses: how many ended so, of the last ones in a row.
        failed_last: the number of the newest claim that failed, and says why.
    """

    number: int = 0
    renewed: float = 0.0
    ended: bool = False
    finished: bool = False
    failures: int = 0
    losses: int = 0
    failed_last: int = 0

    def failed(self, retries: int) -> bool:
        """Whether the unit may not be tried again."""
        return not self.finished and (self.failures > retries or self.losses > MOST_LOST)


FRESH = Standing()


def shard_key(shard: int) -> str:
    """The folder of the claims on some units."""
    return f"claims/{shard:04d}"


def num_shards(units: int) -> int:
    """The number of folders for so many units."""
    return -(-units // SHARD)


def standings(times: Mapping[str, float]) -> dict[int, Standing]:
    """The units of a folder that anybody has claimed, by {name: time} of its objects."""
    found: dict[int, list[tuple[int, str, float]]] = {}
    for name, written in times.items():
        unit, _, rest = name.partition(".")
        number, _, kind = rest.partition(".")
        if kind in KINDS and unit.isdecimal() and number.isdecimal():
            found.setdefault(int(unit), []).append((int(number), kind, written))
    return {unit: _standing(said) for unit, said in found.items()}


def _standing(said: Sequence[tuple[int, str, float]]) -> Standing:
    newest, kinds = max(said)[0], [kind for _, kind, _ in said]
    last = {kind: written for number, kind, written in said if number == newest}
    renewed = last.pop("claim", 0.0)
    failed = [number for number, kind, _ in said if kind == "failed"]
    lost = {number for number, kind, _ in said if kind == "lost"}
    ended = newest if last else newest - 1
    return Standing(
        number=newest,
        renewed=renewed,
        ended=bool(last),
        finished="finished" in kinds,
        failures=len(failed),
        losses=next(n for n in itertools.count() if ended - n not in lost),
        failed_last=max(failed, default=0),
    )


def agree_on_lease(store: Store, lease: float) -> None:
    """Says what the lease is, if nobody has: a worker with a shorter one would take living ones for lost.

    Raises:
        InputError: workers of this sweep have another.
    """
    if not store.create(LEASE_KEY, str(lease).encode()) and (agreed := agreed_lease(store)) != lease:
        raise InputError(
            f"workers of this sweep are taken for lost after {agreed:g} seconds: give --lease={agreed:g}"
        )


def agreed_lease(store: Store) -> float:
    """What workers have said that the lease is, in seconds; the default before any has."""
    return float(store.read(LEASE_KEY) or LEASE)


class StoreClock:
    """The store's clock: read occasionally, and continued with a local monotonic clock in between."""

    def __init__(self, store: Store, worker: str, monotonic: Callable[[], float] = time.monotonic):
        self._store, self._key, self._monotonic = store, f"workers/{worker}", monotonic
        self._offset, self._read = 0.0, float("-inf")

    def now(self) -> float:
        """The time by the store's clock, or slightly earlier."""
        before = self._monotonic()
        if before - self._read > MEASURED:
            # What the store has written was written after `before`: time that a request takes is for the holder.
            self._offset = self._store.write(self._key, b"") - self._monotonic()
            self._read = before
        return self._monotonic() + self._offset


class Claims:
    """A worker's requests to the store: taking, renewing and ending claims.

    Attributes:
        is_over: whether all units are finished or have failed for good.
        failed: those that have failed for good, as far as this worker has looked.
    """

    def __init__(
        self,
        store: Store,
        units: int,
        worker: str,
        *,
        first: float | None = None,
        lease: float = LEASE,
        retries: int = RETRIES,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            units: how many there are, from 0.
            worker: its name, which no other has.
            first: which of the free units near the first it tries, from 0 to 1; any of them if None.
            retries: how often a unit that has failed is tried again.
        """
        self.store, self.worker, self.lease, self.retries = store, worker, lease, retries
        self._units, self._random = units, random.Random(worker)
        self._first = first
        self._open, self._asked = list(range(num_shards(units))), False
        self.failed: dict[int, Standing] = {}
        self._own_failures: set[int] = set()
        self._held: dict[Claim, float] = {}
        self._held_first: dict[Claim, float] | None = None
        self._clock, self._monotonic, self._begun = StoreClock(store, worker, monotonic), monotonic, monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done."""
        return not self._open

    def take(self, looks: int | None = None) -> Claim | None:
        """Claims a free unit; None if there is none.

        What this worker has failed at itself comes last, and is left to others while these hold a claim: it may be
        this machine that is broken.

        Args:
            looks: how many folders to look into, others than last time; all if None.
        """
        self._leave_out_finished()
        self._held = {}
        shards = self._open[:looks]
        claim = self._take_among(shards, self._own_failures)
        if claim is None and self._own_failures and not self._held:
            claim = self._take_among([shard for shard in shards if shard in self._open], set())
        if looks:
            looked_into = [shard for shard in shards if shard in self._open]
            self._open = [shard for shard in self._open if shard not in looked_into] + looked_into
        if claim:
            self._held_first = None
        elif self._held_first is None:
            self._held_first = self._held
        return claim

    def _take_among(self, shards: Iterable[int], but: Set[int]) -> Claim | None:
        return next((claim for shard in shards if (claim := self._take_of(shard, but))), None)

    @property
    def may_leave(self) -> bool:
        """Whether, after there was nothing to take, nothing remains that this worker could take.

        A worker may be started in the place of one that was lost a moment ago, whose claim is not over yet. It
        stays until it has been there as long as a lease, or all who hold a claim have renewed it under its eyes.
        """
        if self._held_first is None or self._monotonic() - self._begun > self.lease:
            return self._held_first is not None
        return all(self._held.get(claim, inf) > renewed for claim, renewed in self._held_first.items())

    def _leave_out_finished(self) -> None:
        """Asks once for the folders that others have found finished."""
        if not self._asked and len(self._open) > 1:
            finished = self.store.times(FINISHED)
            self._open = [shard for shard in self._open if f"{shard:04d}" not in finished]
        self._asked = True

    def _take_of(self, shard: int, but: Set[int]) -> Claim | None:
        """A claim on a unit of a folder. Where another worker is quicker, it looks again at what is left."""
        units, tried = self._units_of(shard), list[int]()
        while True:
            known = self.look(shard)
            self.failed |= {unit: own for unit, own in known.items() if own.failed(self.retries)}
            standings = [known.get(unit, FRESH) for unit in units]
            if all(self._is_over(standing) for standing in standings):
                self._close(shard, all(standing.finished for standing in standings))
                return None
            free = [unit for unit, standing in zip(units, standings, strict=True) if self._is_free(standing)]
            if not (free := [unit for unit in free if unit not in tried and unit not in but]):
                self._held |= {
                    Claim(unit, own.number): own.renewed for unit, own in known.items() if not own.ended
                }
                return None
            unit = self._choose(free, crowded=bool(tried))
            if claim := self._claim(unit, known.get(unit, FRESH)):
                return claim
            tried.append(unit)

    def _close(self, shard: int, finished: bool) -> None:
        self._open.remove(shard)
        if finished and num_shards(self._units) > 1:
            self.store.create(f"{FINISHED}/{shard:04d}", b"")

    def _choose(self, free: Sequence[int], crowded: bool) -> int:
        """One of the first, which are costly; any, where others have just tried the same."""
        some = free if crowded else free[:NEAR]
        place = self._random.random() if crowded or self._first is None else self._first
        return some[int(place * len(some))]

    def look(self, shard: int) -> dict[int, Standing]:
        """The state of a folder's units."""
        return standings(self.store.times(shard_key(shard)))

    def _units_of(self, shard: int) -> range:
        return range(shard * SHARD, min(self._units, (shard + 1) * SHARD))

    def _is_over(self, standing: Standing) -> bool:
        return standing.finished or standing.failed(self.retries)

    def _is_free(self, standing: Standing) -> bool:
        if self._is_over(standing):
            return False
        return not standing.number or standing.ended or self._clock.now() - standing.renewed > self.lease

    def _claim(self, unit: int, standing: Standing) -> Claim | None:
        """The next claim on a unit, unless another worker has it."""
        if standing.number and not standing.ended and not self._may_try_again(unit, standing):
            return None
        claim = Claim(unit, standing.number + 1)
        return claim if self.store.create(claim.key(), self._said({})) else None

    def _may_try_again(self, unit: int, standing: Standing) -> bool:
        """Records that a worker was lost before its first step. Returns whether the unit may be tried again."""
        lost = Claim(unit, standing.number)
        if (said := parse_object(self.store, lost.key())).get("step", 0) > said.get("start", 0):
            return True
        self.store.create(lost.key("lost"), self._said({}))
        return standing.losses + 1 <= MOST_LOST

    def _said(self, content: Mapping[str, Any]) -> bytes:
        return json.dumps({"worker": self.worker, **content}).encode()

    def renew(self, claim: Claim, content: Mapping[str, Any]) -> None:
        """Records that the claim's worker is still working, and its progress."""
        self.store.put(claim.key(), self._said(content))

    def holds(self, claim: Claim) -> bool:
        """Whether there is no newer claim."""
        return self.look(claim.unit // SHARD).get(claim.unit, FRESH).number == claim.number

    def end(self, claim: Claim, how: str, content: Mapping[str, Any]) -> None:
        """Records how a claim ended: `finished`, `failed` or `stopped`."""
        if how == "failed":
            self._own_failures.add(claim.unit)
        self.store.create(claim.key(how), self._said(content))


def worker_name() -> str:
    """A unique name for this worker that says where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def parse_object(store: Store, key: str) -> dict[str, Any]:
    """The content of an object; empty if it is absent or damaged."""
    try:
        content = json.loads(store.read(key) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
