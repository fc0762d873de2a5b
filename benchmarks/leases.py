"""Simulates a large sweep on spot machines: how busy they are, what is done twice, what the bucket is asked.

    python -m benchmarks.leases --output=benchmarks/results/leases.json

The workers' own code (`runs.claims`) runs in a thread for every machine, over a store in memory whose requests
take as long as an object store's. Time is simulated: one thread runs at a time, the one whose turn is next.
Machines are killed at random, half of them without warning, and come back; their clocks are minutes apart.

A machine is up from its start to its kill. Useful is time in steps that count; starting again after a kill, and
steps after the last checkpoint that die with a machine, are not. Time without a machine is nobody's.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from pini_jax.runs import claims
from pini_jax.runs.claims import Claim, Claims
from pini_jax.runs.worker import PAUSES


class Setting(NamedTuple):
    """What is simulated; seconds."""

    units: int = 10_000
    workers: int = 512
    length: float = 900.0  # of a unit, on average; between a half and one and a half of it
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
    """Simulated time: threads sleep in it, and wake one at a time."""

    def __init__(self) -> None:
        self.now, self._order = 0.0, 0
        self._sleeping: list[tuple[float, int, threading.Semaphore]] = []
        self._idle = threading.Semaphore(0)

    def sleep(self, seconds: float) -> None:
        """Of the thread that calls it."""
        wake = threading.Semaphore(0)
        self._push(self.now + seconds, wake)
        self._idle.release()
        wake.acquire()

    def _push(self, when: float, wake: threading.Semaphore) -> None:
        self._order += 1
        heapq.heappush(self._sleeping, (when, self._order, wake))

    def start(self, target) -> None:
        """A thread that begins when it is its turn."""
        wake = threading.Semaphore(0)
        self._push(self.now, wake)

        def run() -> None:
            wake.acquire()
            target()
            self._idle.release()

        threading.Thread(target=run, daemon=True).start()

    def run(self) -> None:
        """Until no thread is left."""
        while self._sleeping:
            self.now, _, wake = heapq.heappop(self._sleeping)
            wake.release()
            self._idle.acquire()


class Bucket:
    """A store whose requests take time, and are counted; it answers as it is at the end of that time."""

    def __init__(self, simulation: Simulation, setting: Setting, chance: random.Random):
        self._simulation, self._setting, self._chance = simulation, setting, chance
        self._folders: dict[str, dict[str, tuple[bytes, float]]] = {}
        self.requests: Counter[str] = Counter()

    def _request(self, kind: str, key: str) -> tuple[dict[str, tuple[bytes, float]], str]:
        self.requests[kind] += 1
        self._simulation.sleep(self._chance.uniform(*self._setting.latency))
        folder, _, name = key.rpartition("/")
        return self._folders.setdefault(folder, {}), name

    def create(self, key: str, content: bytes) -> bool:
        folder, name = self._request("create", key)
        created = name not in folder
        folder.setdefault(name, (content, self._simulation.now))
        return created

    def write(self, key: str, content: bytes) -> float:
        folder, name = self._request("write", key)
        self.requests["time"] += 1
        folder[name] = content, self._simulation.now
        return self._simulation.now

    def read(self, key: str) -> bytes | None:
        folder, name = self._request("read", key)
        return folder[name][0] if name in folder else None

    def times(self, folder: str) -> dict[str, float]:
        found, _ = self._request("list", f"{folder}/")
        return {name: written for name, (_, written) in found.items()}


class Tally:
    """Seconds of all machines: up, useful, repeated; how far every unit's checkpoints are; who published it."""

    def __init__(self, setting: Setting, chance: random.Random):
        self.seconds: Counter[str] = Counter()
        self.lengths = sorted(
            (setting.length * chance.uniform(0.5, 1.5) for _ in range(setting.units)), reverse=True
        )
        self.saved = [0.0] * setting.units
        self.finished: Counter[int] = Counter()
        self.over = 0.0


class Machine:
    """A place for a worker: each life of it is a new one."""

    def __init__(
        self, number: int, simulation: Simulation, bucket: Bucket, setting: Setting, tally: Tally, seed: int
    ):
        self._number, self._simulation, self._bucket = number, simulation, bucket
        self._setting, self._tally = setting, tally
        self._chance = random.Random(f"{seed}-{number}")
        self._end, self._warned = 0.0, False

    def run(self) -> None:
        """Life after life, until there is nothing left to do."""
        for life in range(sys.maxsize):
            self._end = self._simulation.now + self._chance.expovariate(1 / self._setting.life)
            self._warned = self._chance.random() < self._setting.warned
            skew = self._chance.uniform(-1, 1) * self._setting.skew
            own = Claims(
                *(self._bucket, self._setting.units, f"{self._number}-{life}"),
                lease=self._setting.lease,
                retries=10**9,
                monotonic=lambda: self._simulation.now + skew,  # noqa: B023, used in this life alone
            )
            begun = self._simulation.now
            try:
                self._pass(self._setting.boot)
                self._work(own)
                return
            except Killed:
                pass
            finally:
                self._tally.seconds["up"] += self._simulation.now - begun
                self._tally.over = self._simulation.now
            self._simulation.sleep(self._setting.replacement)

    def _pass(self, seconds: float) -> None:
        """Time goes by, unless the machine is killed before."""
        left = self._end - self._simulation.now
        self._simulation.sleep(max(0.0, min(seconds, left)))
        if seconds >= left:
            raise Killed

    def _work(self, own: Claims) -> None:
        pause = PAUSES[0]
        while not own.is_over:
            if self._simulation.now >= self._end:
                raise Killed
            if claim := own.take():
                self._train(own, claim)
                pause = PAUSES[0]
            elif not self._setting.wait:
                return
            else:
                self._pass(pause)
                pause = min(2 * pause, PAUSES[1])

    def _train(self, own: Claims, claim: Claim) -> None:
        """Goes on from the last checkpoint; steps that no checkpoint has are lost with the machine."""
        unit, tally = claim.unit, self._tally
        done = begin = tally.saved[unit]
        self._pass(self._setting.start)
        renewed = self._simulation.now
        try:
            while done < tally.lengths[unit]:
                step = min(self._setting.checkpoint, tally.lengths[unit] - done)
                before = self._simulation.now
                try:
                    self._pass(step)
                except Killed:
                    done += self._simulation.now - before
                    raise
                done += step
                if done > tally.saved[unit]:
                    tally.seconds["useful"] += done - max(tally.saved[unit], done - step)
                    tally.saved[unit] = done
                else:
                    tally.seconds["repeated"] += step
                if self._simulation.now - renewed > self._setting.lease / claims.RENEWALS:
                    own.renew(claim, {"start": begin, "step": done})
                    renewed = self._simulation.now
        except Killed:
            gained = done - tally.saved[unit]
            if self._warned:  # saves, and gives the claim back
                tally.seconds["useful"] += max(0.0, gained)
                tally.saved[unit] = max(tally.saved[unit], done)
                own.end(claim, "stopped", {})
            else:
                tally.seconds["repeated"] += max(0.0, gained)  # somebody does it again
            raise
        if own.holds(claim):
            tally.finished[unit] += 1
            own.end(claim, "finished", {})


def simulate(setting: Setting, seed: int = 0) -> dict:
    """The whole sweep, in numbers."""
    chance = random.Random(seed)
    simulation = Simulation()
    bucket, tally = Bucket(simulation, setting, chance), Tally(setting, chance)
    for number in range(setting.workers):
        simulation.start(Machine(number, simulation, bucket, setting, tally, seed).run)
    simulation.run()
    seconds, asked = tally.seconds, sum(bucket.requests.values())
    return {
        "setting": setting._asdict(),
        "hours": tally.over / 3600,
        "utilisation": seconds["useful"] / seconds["up"],
        "repeated": seconds["repeated"] / seconds["up"],
        "finished": len(tally.finished),
        "published_twice": sum(count > 1 for count in tally.finished.values()),
        "requests": dict(bucket.requests),
        "requests_per_second": asked / tally.over,
        "requests_per_unit": asked / setting.units,
    }


SETTINGS = {
    "workers stay to the end": Setting(units=500, workers=26, wait=True),
    "no kills": Setting(units=500, workers=26, life=1e12),
    "all kills without warning": Setting(units=500, workers=26, warned=0.0),
    "units of two minutes": Setting(units=2000, workers=26, length=120.0),
    "10,000 units, 512 workers": Setting(),
}


def main(_: list[str]) -> None:
    """Prints and writes the numbers."""
    threading.stack_size(1 << 18)
    results = {}
    for name, setting in SETTINGS.items():
        results[name] = simulate(setting)
        print(json.dumps({name: results[name]}), flush=True)
        if flags.FLAGS.output:
            Path(flags.FLAGS.output).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("output", "", "File of the numbers.")
    app.run(main)
