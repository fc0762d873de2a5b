"""A workdir in a bucket: worked on in a folder of this machine, and kept in the bucket.

Under `.run/` of the workdir lie the claims of those who have written it, one after the other, and what the last of
them has pushed, each under the number of its claim (`core.mirror`): one who was taken for gone and wakes up writes
where nobody looks. Readers find what a command has left, but for checkpoints, under the files' own names.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pini_jax.core import mirror, stop
from pini_jax.core.bucket import Bucket, is_url, open_bucket
from pini_jax.core.errors import InputError
from pini_jax.core.mirror import Manifest, Mirror
from pini_jax.runs import population
from pini_jax.runs.claims import LEASE, RENEWALS, Claim, Claims, parse_object, worker_name
from pini_jax.runs.folder import CONFIG
from pini_jax.runs.lease import Lease, Lost
from pini_jax.train.watch import UNWATCHED, Watch

OWN = ".run"  # the folder of claims and of what was pushed in the workdir
BEGUN = (CONFIG, population.FILE)  # what says that a folder holds runs


@contextlib.contextmanager
def staged(workdir: str, lease: float = LEASE) -> Iterator[tuple[Path, Watch]]:
    """The folder to work in, and the `Watch` of what is trained there.

    A path on this machine is itself. A bucket has a copy here, which the watch pushes.

    Raises:
        InputError: another process writes it, or has taken it over; or what is there is damaged.
        OSError: the store gives no answer.
    """
    if not is_url(workdir):
        yield Path(workdir), UNWATCHED
        return
    place = open_bucket(workdir)
    claims = Claims(place.below(OWN), 1, worker_name(), lease=lease)
    claim = take_claim(claims, place.url)
    with tempfile.TemporaryDirectory(prefix="pini_jax-", ignore_cleanup_errors=True) as top:
        folder = Path(top, *place.url.partition("://")[2].split("/"))
        try:
            with Lease(claims, claim) as held, told_of(folder, place.url):
                yield from _kept(place, folder, claims, claim, held)
        except Lost:
            raise InputError(f"{place.url} was taken over by another process, and is left to it") from None
        finally:
            with contextlib.suppress(OSError):
                claims.end(claim, "stopped", {})


def take_claim(claims: Claims, url: str) -> Claim:
    """Takes the next claim on a workdir, after waiting for one whose worker may still be alive.

    Raises:
        InputError: its worker lives.
    """
    begun = claims.look(0).get(0)
    while not (claim := claims.take()):
        now = claims.look(0).get(0)
        if begun and now and now[:2] != begun[:2]:
            who = parse_object(claims.store, Claim(0, now.number).key()).get("worker", "another process")
            raise InputError(f"{url} is being written by {who}: wait for it, or choose another workdir")
        stop.raise_if_requested()
        time.sleep(claims.lease / RENEWALS / 4)
    claims.renew(claim, {"start": 0, "step": 1})  # whoever comes after this one may go on, whatever becomes of it
    return claim


def _kept(place: Bucket, folder: Path, claims: Claims, claim: Claim, held: Lease) -> Iterator[tuple[Path, Watch]]:
    """Pulls, and pushes after every checkpoint and at every end that leaves something."""
    own = place.below(OWN)
    folder.mkdir(parents=True)
    older = _older(own, claim)
    keeper = Mirror(own.below(f"{claim.number:03d}"), folder, _pull(place, folder, older))

    pushed = False

    def push() -> None:
        nonlocal pushed
        held.check()
        if keeper.push():
            pushed = True
            own.delete(older)
            older.clear()

    def publish() -> None:
        """Shows readers what there is, unless all of it is another command's."""
        push()
        if pushed:
            keeper.publish(place, lambda: claims.holds(claim))

    try:
        yield folder, Watch(saved=push)
    except stop.Stopped:
        push()
        raise
    except InputError:
        publish()
        raise
    publish()


def _pull(place: Bucket, folder: Path, older: Iterable[str]) -> Manifest:
    """What the last one has pushed; or the files themselves, where somebody has copied a folder of runs."""
    own = place.below(OWN)
    for number in sorted({int(key.partition("/")[0]) for key in older}, reverse=True):
        if state := mirror.pull(own.below(f"{number:03d}"), folder):
            return state
    if not set(BEGUN) & place.times("").keys():
        return mirror.EMPTY
    place.get_all((key for key in place.objects() if not key.startswith(".")), folder)
    return mirror.EMPTY


def _older(own: Bucket, claim: Claim) -> list[str]:
    """The objects of those who held earlier claims."""
    numbers = {key: int(match[1]) for key in own.objects() if (match := re.match(r"(\d+)/", key))}
    return [key for key, number in numbers.items() if number < claim.number]


@contextlib.contextmanager
def told_of(folder: Path, url: str) -> Iterator[None]:
    """Errors within the block speak of the bucket, not of the folder that stands for it here."""
    try:
        yield
    except InputError as error:
        raise type(error)(str(error).replace(str(folder), url)) from None
