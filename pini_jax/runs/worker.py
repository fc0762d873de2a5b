"""A worker of a sweep: claims a unit of its plan, trains it, publishes what it has, and claims the next.

A worker trains in a folder of its own claim, `.sweep/attempts/UNIT.CLAIM/`, and goes on from the checkpoints of
the claim before. A finished run is published by renaming its folder, which succeeds once; only the newest claim's
holder tries. So a worker that was stopped and wakes up later overwrites nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pini_jax.config import Config
from pini_jax.core import paths, stop
from pini_jax.core.errors import InputError, last_line
from pini_jax.core.store import Folder, Store
from pini_jax.runs import experiment
from pini_jax.runs.claims import LEASE, LOOKS, RENEWALS, RETRIES, Claim, Claims
from pini_jax.runs.plan import Plan, read_plan

OWN = ".sweep"  # the folder of claims and attempts in the workdir
PAUSES = (1.0, 30.0)  # seconds that an idle worker waits, first and at most
LOG = logging.getLogger(__name__)


class Lost(Exception):
    """Somebody else has the newest claim on this unit."""


class Options(NamedTuple):
    """How a worker works.

    Attributes:
        first: where among the units it begins to look, from 0 to 1; anywhere if None.
        retries: how often a unit that has failed is tried again.
        wait: whether it stays while others work, for what they may leave behind.
    """

    first: float | None = None
    lease: float = LEASE
    retries: int = RETRIES
    wait: bool = True


def claims_store(workdir: Path) -> Store:
    """Where the claims of a sweep are."""
    return Folder(workdir / OWN)


def work(workdir: Path, options: Options) -> None:
    """Takes units until there is none left to take.

    Raises:
        InputError: there is no plan; or some runs of this worker have failed for good.
        Stopped: somebody asked for it; what was being trained is saved, and its claim is given back.
    """
    plan = read_plan(Folder(workdir))
    worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    claims = Claims(
        *(claims_store(workdir), len(plan.units), worker),
        first=options.first,
        lease=options.lease,
        retries=options.retries,
    )
    failed: dict[str, str] = {}
    for claim in _taken(claims, options.wait):
        failed |= train_claimed(workdir, plan, claims, claim)
    if failed:
        shown = "; ".join(dict.fromkeys(failed.values()))
        raise InputError(f"{len(failed)} runs have no result, as pini sweep status says: {shown}")


def _taken(claims: Claims, wait: bool) -> Iterator[Claim]:
    """One claim after the other; between them, an idle worker waits longer and longer."""
    pause, idle = PAUSES[0], False
    while not claims.is_over:
        stop.raise_if_requested()
        if claim := claims.take(LOOKS if idle else None):
            yield claim
            pause, idle = PAUSES[0], False
        elif claims.is_over or not wait:
            return
        else:
            _sleep(pause)
            pause, idle = min(2 * pause, PAUSES[1]), True


def _sleep(seconds: float) -> None:
    """Sleeps, but for signals."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stop.raise_if_requested()
        time.sleep(min(0.1, seconds))


# ------------------------------------------------------------------------------------------------ one unit


def train_claimed(workdir: Path, plan: Plan, claims: Claims, claim: Claim) -> dict[str, str]:
    """Trains the runs of a unit, publishes those that finish, and says how the claim ended: why others failed."""
    attempt = _attempt(workdir, claim)
    LOG.info("unit %d of %d, claim %d", claim.unit + 1, len(plan.units), claim.number)
    try:
        with Lease(claims, claim) as lease:
            configs = plan.configs(claim.unit)
            restore(workdir, claim, configs)
            reasons = _train(attempt, configs, lease)
        if not claims.holds(claim):
            raise Lost
        reasons |= publish(workdir, attempt, configs)
    except Lost:
        LOG.warning("unit %d was taken over by another worker, and is left to it", claim.unit + 1)
        return {}
    except stop.Stopped:
        claims.end(claim, "stopped", {})
        raise
    except Exception as error:  # whatever happened to this unit stops no other
        names = [run.name for run in plan.units[claim.unit]]
        reasons = {name: _reason(error) for name in names if not _is_published(workdir, name)}
    claims.end(claim, "failed" if reasons else "finished", {"failed": reasons})
    if not reasons:
        for number in range(1, claim.number + 1):
            shutil.rmtree(_attempt(workdir, Claim(claim.unit, number)), ignore_errors=True)
    return reasons


def _attempt(workdir: Path, claim: Claim) -> Path:
    return workdir / OWN / "attempts" / f"{claim.unit:06d}.{claim.number:03d}"


def _reason(error: Exception) -> str:
    text = last_line(error)
    return text if isinstance(error, (InputError, OSError)) else f"{type(error).__name__}: {text}"


def restore(workdir: Path, claim: Claim, configs: Mapping[str, Config]) -> None:
    """Copies published runs into the attempt's folder, and of the others what the attempt before has left."""
    earlier = (_attempt(workdir, Claim(claim.unit, number)) for number in range(claim.number - 1, 0, -1))
    before = next((folder for folder in earlier if folder.exists()), None)
    for name in configs:
        source = workdir / name if (workdir / name).exists() or before is None else before / name
        # What a worker that still lives deletes meanwhile is missed: the step before it is taken.
        with contextlib.suppress(FileNotFoundError, shutil.Error):
            shutil.copytree(source, _attempt(workdir, claim) / name, ignore=shutil.ignore_patterns(".*"))


def _train(attempt: Path, configs: Mapping[str, Config], lease: Lease) -> dict[str, str]:
    """Trains the runs of a unit in the attempt's folder; {name: why} of those that have no result."""
    folders = {attempt / name: config for name, config in configs.items()}
    try:
        experiment.train_together(folders, lease.report)
    except Lost:
        raise
    except Exception as error:
        LOG.warning("%s", _reason(error))
        missing = [folder for folder in folders if not (folder / "result.json").exists()]
        return {folder.name: _failure(folder) or _reason(error).replace(f"{attempt}/", "") for folder in missing}
    return {}


def _failure(folder: Path) -> str:
    """What the run says itself; nothing if it does not."""
    file = folder / "failure.json"
    return str(paths.read_object(file)["reason"]).replace(f"{folder.parent}/", "") if file.exists() else ""


def publish(workdir: Path, attempt: Path, names: Mapping[str, Config]) -> dict[str, str]:
    """Puts finished runs where they belong, unless they are there; {name: why} of those where it cannot."""
    reasons = {}
    for name in names:
        if (attempt / name / "result.json").exists() and not _is_published(workdir, name):
            for mark in (".lock", ".holder"):
                (attempt / name / mark).unlink(missing_ok=True)
            try:
                os.rename(attempt / name, workdir / name)
            except OSError as error:
                if not _is_published(workdir, name):
                    reasons[name] = f"it is trained, and cannot be put into its folder ({error.strerror})"
    return reasons


def _is_published(workdir: Path, name: str) -> bool:
    return (workdir / name / "result.json").exists()


class Lease:
    """Renews a claim in a thread of its own, and says in it how far the unit is."""

    def __init__(self, claims: Claims, claim: Claim):
        self._claims, self._claim = claims, claim
        self._over, self._lost = threading.Event(), False
        self._progress: dict[str, float] = {}
        self._begun: tuple[float, int] | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def report(self, done: int, total: int) -> None:
        """As a `Watch`: notes how far the runs are.

        Raises:
            Lost: another worker has taken the unit over.
        """
        if self._lost:
            raise Lost
        now = time.monotonic()
        begun, start = self._begun = self._begun or (now, done - 1)
        rate = (done - start) / (now - begun) if now > begun else 0.0
        self._progress = {"start": start, "step": done, "steps": total, "rate": rate}

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._over.wait(self._claims.lease / RENEWALS):
            try:
                if time.monotonic() - renewed > self._claims.lease and not self._claims.holds(self._claim):
                    self._lost = True
                    return
                self._claims.renew(self._claim, self._progress)
                renewed = time.monotonic()
            except OSError as error:
                LOG.warning("the claim could not be renewed (%s)", last_line(error))
