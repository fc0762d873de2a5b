"""A worker of a sweep: claims a unit of its plan, trains it, publishes what it has, and claims the next.

A worker trains in a folder of its own claim, `.sweep/attempts/UNIT.CLAIM/`, and goes on from the checkpoints of
the claim before. A finished run is published at once, as `runs.attempts` says, and only the newest claim's holder
tries. So a worker that was stopped and wakes up later overwrites nothing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pini_jax.config import Config
from pini_jax.core import paths, stop
from pini_jax.core.bucket import is_url, open_bucket
from pini_jax.core.errors import InputError, last_line
from pini_jax.core.store import Store, open_store
from pini_jax.data import features
from pini_jax.runs import experiment, shared_cache
from pini_jax.runs.attempts import OWN, Attempts, InBucket, OnDisk
from pini_jax.runs.claims import LEASE, LOOKS, RETRIES, Claim, Claims, agree_on_lease, worker_name
from pini_jax.runs.folder import FAILURE
from pini_jax.runs.lease import Lease, Lost
from pini_jax.runs.plan import Plan, read_plan
from pini_jax.runs.progress import reasons_of
from pini_jax.train.watch import Watch

PAUSES = (0.1, 30.0)  # seconds that an idle worker waits, first and at most: units may be as short as a second
LOG = logging.getLogger(__name__)


class Options(NamedTuple):
    """The options of a worker.

    Attributes:
        first: where among the units it begins to look, from 0 to 1; anywhere if None.
        retries: how often a unit that has failed is tried again.
        wait: whether it stays while others work, for what they may leave behind; or only for what one that it
            replaces may have.
    """

    first: float | None = None
    lease: float = LEASE
    retries: int = RETRIES
    wait: bool = True


def claims_store(workdir: str | Path) -> Store:
    """Opens the store of a sweep's claims."""
    return open_store(f"{str(workdir).rstrip('/')}/{OWN}")


def work(workdir: str | Path, options: Options) -> None:
    """Claims and trains units until none is left.

    Args:
        workdir: of the sweep, on this machine or in a bucket.

    Raises:
        InputError: there is no plan; its workers have another lease; or some runs have failed for good.
        OSError: the store gives no answer.
        Stopped: somebody asked for it; what was being trained is saved, and its claim is given back.
    """
    plan = read_plan(open_store(workdir))
    store = claims_store(workdir)
    agree_on_lease(store, options.lease)
    claims = Claims(
        *(store, len(plan.units), worker_name()),
        first=options.first,
        lease=options.lease,
        retries=options.retries,
    )
    with open_attempts(workdir, claims) as attempts:
        for claim in _taken(claims, options.wait):
            train_claimed(attempts, plan, claims, claim)
    if failed := reasons_of(store, plan, claims.failed):
        shown = "; ".join(dict.fromkeys(failed.values()))
        raise InputError(f"{len(failed)} runs have no result, as pini sweep status says: {shown}")


@contextlib.contextmanager
def open_attempts(workdir: str | Path, claims: Claims) -> Iterator[Attempts]:
    """Opens the place in which a worker trains."""
    if not is_url(str(workdir)):
        yield OnDisk(Path(workdir))
        return
    place = open_bucket(str(workdir))
    cache = place.below(f"{OWN}/cache")
    share = functools.partial(shared_cache.share_features, cache, lease=claims.lease)
    made = tempfile.TemporaryDirectory(prefix="pini_jax-", ignore_cleanup_errors=True)
    with made as folder, features.shared_by(share):
        yield InBucket(place, Path(folder), shared_cache.Programs(cache))


def _taken(claims: Claims, wait: bool) -> Iterator[Claim]:
    """One claim after the other; between them, an idle worker waits longer and longer."""
    pause, idle = PAUSES[0], False
    while not claims.is_over:
        stop.raise_if_requested()
        if claim := claims.take(LOOKS if idle and wait else None):
            yield claim
            pause, idle = PAUSES[0], False
        elif claims.is_over or (claims.may_leave and not wait):
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


def train_claimed(attempts: Attempts, plan: Plan, claims: Claims, claim: Claim) -> None:
    """Trains the runs of a unit, publishes those that finish, and says in the store how the claim ended."""
    LOG.info("unit %d of %d, claim %d", claim.unit + 1, len(plan.units), claim.number)
    try:
        with Lease(claims, claim) as lease:
            configs = plan.configs(claim.unit)
            attempt = attempts.prepare(claim, configs)
            watch = Watch(stepped=lease.report, saved=lambda: _save(attempts, lease))
            reasons = _train(attempt, configs, watch)
            lease.check()
            attempts.save()
            attempts.wait()  # before the question: whoever takes the unit over from now on has these bytes
            if not claims.holds(claim):
                raise Lost
            reasons |= attempts.publish(claim, configs)
    except Lost:
        LOG.warning("unit %d was taken over by another worker, and is left to it", claim.unit + 1)
        return
    except stop.Stopped:
        attempts.save()  # what was evaluated since the last checkpoint
        attempts.wait()
        claims.end(claim, "stopped", {})
        raise
    except Exception as error:  # whatever happened to this unit stops no other
        LOG.warning("%s", _reason(error))
        names = [run.name for run in plan.units[claim.unit]]
        reasons = {name: _reason(error) for name in names if not attempts.is_published(name)}
    if not reasons:
        attempts.discard(claim)  # before it is told: nobody comes after that
    claims.end(claim, "failed" if reasons else "finished", {"failed": reasons})


def _save(attempts: Attempts, lease: Lease) -> None:
    """Begins to keep what there is, unless it is another one's by now; where the store is away, the next time."""
    lease.check()
    try:
        attempts.save()
    except OSError as error:
        LOG.warning("what was trained could not be kept for others yet (%s)", last_line(error))


def _reason(error: Exception) -> str:
    text = last_line(error)
    return text if isinstance(error, (InputError, OSError)) else f"{type(error).__name__}: {text}"


def _train(attempt: Path, configs: Mapping[str, Config], watch: Watch) -> dict[str, str]:
    """Trains the runs of a unit in the attempt's folder; {name: why} of those that have no result."""
    folders = {attempt / name: config for name, config in configs.items()}
    try:
        experiment.train_together(folders, watch)
    except Lost:
        raise
    except Exception as error:
        LOG.warning("%s", _reason(error))
        missing = [folder for folder in folders if not (folder / paths.RESULT).exists()]
        if not missing:
            raise  # of a result that is there something is wrong
        return {folder.name: _failure(folder) or _reason(error).replace(f"{attempt}/", "") for folder in missing}
    return {}


def _failure(folder: Path) -> str:
    """What the run says itself; nothing if it does not."""
    file = folder / FAILURE
    return str(paths.read_object(file)["reason"]).replace(f"{folder.parent}/", "") if file.exists() else ""
