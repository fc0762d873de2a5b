"""Simulates a large sweep on spot machines: how busy they are, what is done twice, what the bucket is asked.

    python -m benchmarks.leases --output=benchmarks/results/leases.json

The workers' own code (`runs.claims`) runs in a greenlet for every machine, over a store in memory whose requests
take as long as an object store's. Time is simulated: one of them runs at a time, the one whose turn is next.
Machines are killed at random, half of them without warning, and come back; their clocks are minutes apart.

A machine is up from its start to its kill, or until nothing is left to claim. Useful is time in steps that count.
What is lost: starting the machine and each unit, asking the bucket where training waits for it, idling, and steps
after the last checkpoint that die with a machine, which are repeated. Time without a machine is nobody's.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags
from greenlet import getcurrent, greenlet

from pini_jax.core.bucket import AT_ONCE
from pini_jax.runs import claims
from pini_jax.runs.claims import Claim, Claims
from pini_jax.runs.worker import PAUSES


class Setting(NamedTuple):
    """What is simulated; seconds."""

    units: int = 10_000
    workers: int = 512
    runs: int = 16  # of a unit
    files: int = 8  # of a run, that are published
    length: float = 900.0  # of a unit, on average; planned between a half and one and a half of it
    surprise: float = 0.2  # of what is planned: by so much it may take longer or less
    boot: float = 15.0  # of a new machine: its image is there, Python and the accelerator start
    start: float = 5.0  # of a unit, until its first step: towers, data, compiled step (`benchmarks.startup`)
    checkpoint: float = 15.0  # between two of them
    life: float = 1200.0  # of a machine on average, exponential
    warned: float = 0.5  # share of kills that come as SIGTERM before
    replacement: float = 180.0
    skew: float = 300.0  # at most, of a machine's clock
    latency: tuple[float, float] = (0.03, 0.09)
    lease: float = claims.LEASE
    wait: bool = False


class Killed(Exception):
    """The machine is gone."""


class Simulation:
    """Simulated time: greenlets sleep in it, and wake in their order."""

    def __init__(self) -> None:
        self.now, self._order = 0.0, 0
        self._sleeping: list[tuple[float, int, greenlet]] = []
        self._clock = getcurrent()

    def sleep(self, seconds: float) -> None:
        """Of the greenlet that calls it."""
        self._push(self.now + seconds, getcurrent())
        self._clock.switch()

    def _push(self, when: float, who: greenlet) -> None:
        self._order += 1
        heapq.heappush(self._sleeping, (when, self._order, who))

    def start(self, target: Callable[[], None]) -> None:
        """A greenlet that begins when it is its turn."""
        self._push(self.now, greenlet(target))

    def run(self) -> None:
        """Until none is left."""
        while self._sleeping:
            self.now, _, who = heapq.heappop(self._sleeping)
            who.switch()


class Bucket:
    """A store whose requests take time, and are counted; it answers as it is at the end of that time."""

    def __init__(self, simulation: Simulation, setting: Setting, chance: random.Random):
        self._simulation, self._setting, self._chance = simulation, setting, chance
        self._folders: dict[str, dict[str, tuple[bytes, float]]] = {}
        self._aside = False
        self.requests: Counter[str] = Counter()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Requests within are those of another thread of the worker, which goes on meanwhile."""
        self._aside = True
        yield
        self._aside = False

    def ask(self, kind: str, count: int = 1) -> None:
        """So many requests, as many at a time as workers make."""
        self.requests[kind] += count
        for _ in range(0 if self._aside else -(-count // AT_ONCE)):
            self._simulation.sleep(self._chance.uniform(*self._setting.latency))

    def _find(self, key: str) -> tuple[dict[str, tuple[bytes, float]], str]:
        folder, _, name = key.rpartition("/")
        return self._folders.setdefault(folder, {}), name

    def create(self, key: str, content: bytes) -> bool:
        self.ask("create")
        folder, name = self._find(key)
        created = name not in folder
        folder.setdefault(name, (content, self._simulation.now))
        return created

    def put(self, key: str, content: bytes) -> None:
        self.ask("put")
        folder, name = self._find(key)
        folder[name] = content, self._simulation.now

    def write(self, key: str, content: bytes) -> float:
        self.put(key, content)
        self.ask("stat")
        folder, name = self._find(key)
        return folder[name][1]

    def read(self, key: str) -> bytes | None:
        self.ask("read")
        folder, name = self._find(key)
        return folder[name][0] if name in folder else None

    def times(self, folder: str) -> dict[str, float]:
        self.ask("list")
        found, _ = self._find(f"{folder}/")
        return {name: written for name, (_, written) in found.items()}


class Tally:
    """Seconds of all machines by what they do; how far every unit's checkpoints are; who published it."""

    def __init__(self, setting: Setting, chance: random.Random):
        self.seconds: Counter[str] = Counter()
        planned = sorted((setting.length * chance.uniform(0.5, 1.5) for _ in range(setting.units)), reverse=True)
        self.lengths = [x * (1 + setting.surprise * chance.uniform(-1, 1)) for x in planned]
        self.saved = [0.0] * setting.units
        self.finished: Counter[int] = Counter()
        self.over = 0.0

    def save(self, unit: int, done: float, step: float) -> None:
        """A checkpoint after a step is there: it counts as far as no other worker has got."""
        useful = min(step, max(0.0, done - self.saved[unit]))
        self.seconds["useful"] += useful
        self.seconds["repeated"] += step - useful
        self.saved[unit] = max(self.saved[unit], done)


class Machine:
    """A place for a worker: each life of it is a new one."""

    def __init__(
        self, number: int, simulation: Simulation, bucket: Bucket, setting: Setting, tally: Tally, seed: int
    ):
        self._number, self._simulation, self._bucket = number, simulation, bucket
        self._setting, self._tally = setting, tally
        self._chance = random.Random(f"{seed}-{number}")
        self._end, self._warned = 0.0, False
        self._what, self._since = "", 0.0

    def _turn_to(self, what: str) -> None:
        """What it does from now on; what it did until now is counted."""
        now = self._simulation.now
        self._tally.seconds[self._what] += now - self._since
        self._what, self._since = what, now

    def run(self) -> None:
        """Life after life, until there is nothing left to do."""
        for life in range(sys.maxsize):
            self._turn_to("boot")
            self._end = self._simulation.now + self._chance.expovariate(1 / self._setting.life)
            self._warned = self._chance.random() < self._setting.warned
            skew = self._chance.uniform(-1, 1) * self._setting.skew
            own = Claims(
                *(self._bucket, self._setting.units, f"{self._number}-{life}"),
                lease=self._setting.lease,
                retries=10**9,
                monotonic=lambda: self._simulation.now + skew,  # noqa: B023, used in this life alone
            )
            try:
                self._pass(self._setting.boot)
                self._work(own)
                return
            except Killed:
                pass
            finally:
                self._turn_to("gone")
                self._tally.over = self._simulation.now
            self._simulation.sleep(self._setting.replacement)

    def _pass(self, seconds: float) -> None:
        """Time goes by, unless the machine is killed before."""
        left = self._end - self._simulation.now
        self._simulation.sleep(max(0.0, min(seconds, left)))
        if seconds >= left:
            raise Killed

    def _ask(self, kind: str, count: int = 1) -> None:
        self._bucket.ask(kind, count)
        self._pass(0.0)

    def _work(self, own: Claims) -> None:
        pause = PAUSES[0]
        while not own.is_over:
            self._turn_to("requests")
            claim = own.take()
            self._pass(0.0)
            if claim:
                self._do(own, claim)
                pause = PAUSES[0]
            elif own.is_over or (own.may_leave and not self._setting.wait):
                return
            else:
                self._turn_to("idle")
                self._pass(pause)
                pause = min(2 * pause, PAUSES[1])

    def _do(self, own: Claims, claim: Claim) -> None:
        """One unit, with the requests of `runs.attempts.InBucket`."""
        setting = self._setting
        if claim.number > 1:
            self._ask("read")  # a manifest
            self._ask("read", 2)  # its packs
        self._ask("stat", setting.runs)
        self._turn_to("start")
        self._pass(setting.start)
        self._turn_to("steps")
        self._train(own, claim)
        self._turn_to("requests")
        if own.holds(claim):
            self._ask("stat", setting.runs)
            self._ask("create", setting.runs * (setting.files - 1))
            self._ask("create", setting.runs)  # results, last
            self._tally.finished[claim.unit] += 1
            own.end(claim, "finished", {})
            self._ask("list")
            self._ask("delete", 3)

    def _train(self, own: Claims, claim: Claim) -> None:
        """Goes on from the last checkpoint; steps that no checkpoint has are lost with the machine."""
        unit, tally = claim.unit, self._tally
        done = begin = tally.saved[unit]
        while done < tally.lengths[unit]:
            step, before = min(self._setting.checkpoint, tally.lengths[unit] - done), self._simulation.now
            try:
                self._pass(step)
            except Killed:
                lived = self._simulation.now - before
                if self._warned:  # saves, and gives the claim back
                    tally.save(unit, done + lived, lived)
                    self._turn_to("requests")
                    own.end(claim, "stopped", {})
                else:
                    tally.seconds["repeated"] += lived  # somebody does it again
                raise
            done += step
            if self._warned or self._end > self._simulation.now + 2 * self._setting.latency[1]:
                tally.save(unit, done, step)
            else:  # killed before it is pushed
                tally.seconds["repeated"] += step
            with self._bucket.aside():
                own.renew(claim, {"start": begin, "step": done})
                self._bucket.ask("put", 2)  # a pack and the manifest
                self._bucket.ask("delete")


def simulate(setting: Setting, seed: int = 0) -> dict:
    """The whole sweep, in numbers."""
    chance = random.Random(seed)
    simulation = Simulation()
    bucket, tally = Bucket(simulation, setting, chance), Tally(setting, chance)
    for number in range(setting.workers):
        simulation.start(Machine(number, simulation, bucket, setting, tally, seed).run)
    simulation.run()
    seconds, asked = tally.seconds, sum(bucket.requests.values())
    up = sum(seconds[what] for what in ("boot", "requests", "start", "steps", "idle"))
    return {
        "setting": setting._asdict(),
        "hours": tally.over / 3600,
        "utilisation": seconds["useful"] / up,
        "lost": {what: seconds[what] / up for what in ("boot", "start", "requests", "idle", "repeated")},
        "finished": len(tally.finished),
        "published_twice": sum(count > 1 for count in tally.finished.values()),
        "requests": dict(bucket.requests),
        "requests_per_second": asked / tally.over,
        "requests_per_unit": asked / setting.units,
    }


SMALL = Setting(units=500, workers=26)
SETTINGS = {
    "10,000 units, 512 workers": Setting(),
    "500 units, 26 workers": SMALL,
    "workers stay to the end": SMALL._replace(wait=True),
    "no kills": SMALL._replace(life=1e12),
    "all kills without warning": SMALL._replace(warned=0.0),
    "units of two minutes": SMALL._replace(units=4000, length=120.0),
}


def main(_: list[str]) -> None:
    """Prints and writes the numbers."""
    results = {}
    for name, setting in SETTINGS.items():
        if flags.FLAGS.only in name:
            began = time.monotonic()
            results[name] = simulate(setting)
            results[name]["simulated_in_seconds"] = time.monotonic() - began
            print(json.dumps({name: results[name]}), flush=True)
            if flags.FLAGS.output:
                Path(flags.FLAGS.output).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("output", "", "File of the numbers.")
    flags.DEFINE_string("only", "", "A part of the name of what is simulated.")
    app.run(main)
