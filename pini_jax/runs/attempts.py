"""The folders in which the workers of a sweep train, one for every claim, and how what is finished is published.

An attempt is `.sweep/attempts/UNIT.CLAIM/` of the workdir; it begins with what is published of its unit, and with
what the attempt before has left of the rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pini_jax.core import mirror
from pini_jax.core.bucket import Bucket, at_once
from pini_jax.core.mirror import Mirror
from pini_jax.core.paths import RESULT
from pini_jax.runs.claims import Claim
from pini_jax.runs.folder import HOLDER, LOCK
from pini_jax.runs.shared_cache import Programs

OWN = ".sweep"  # the folder of claims and attempts in the workdir


class Attempts(Protocol):
    """The folders in which a worker trains; runs are referred to by name."""

    def prepare(self, claim: Claim, names: Iterable[str]) -> Path:
        """Makes the folder of an attempt, which has a folder for each run that was begun."""

    def save(self) -> None:
        """Begins to store the prepared folder as it is now, for any worker that continues."""

    def wait(self) -> None:
        """Waits until that is stored."""

    def publish(self, claim: Claim, names: Iterable[str]) -> dict[str, str]:
        """Moves finished runs to their places, unless they are there; returns {name: why} for those where it
        cannot.
        """

    def is_published(self, name: str) -> bool:
        """Whether a run is finished."""

    def discard(self, claim: Claim) -> None:
        """Deletes the attempts of a unit up to this one."""


def key_of(claim: Claim, number: int = 0) -> str:
    """The folder of an attempt, or of another attempt on the same unit."""
    return f"{OWN}/attempts/{claim.unit:06d}.{number or claim.number:03d}"


class OnDisk:
    """A workdir that all workers see as a folder; a run is published by a rename, which succeeds once."""

    def __init__(self, workdir: Path):
        self._workdir = workdir

    def prepare(self, claim: Claim, names: Iterable[str]) -> Path:
        """Copies what earlier attempts have left; a copy is whole or not there."""
        attempt = self._workdir / key_of(claim)
        attempt.mkdir(parents=True, exist_ok=True)
        earlier = [self._workdir / key_of(claim, number) for number in range(claim.number - 1, 0, -1)]
        for name in names:
            places = (folder / name for folder in (self._workdir, *earlier))
            if source := next((folder for folder in places if folder.exists()), None):
                _copy(source, attempt / name)
        return attempt

    def save(self) -> None:
        """Does nothing: the folder is already stored."""

    def wait(self) -> None:
        """Does nothing."""

    def publish(self, claim: Claim, names: Iterable[str]) -> dict[str, str]:
        """Renames the folders of finished runs."""
        attempt, reasons = self._workdir / key_of(claim), {}
        for name in names:
            if (attempt / name / RESULT).exists() and not self.is_published(name):
                for mark in (LOCK, HOLDER):
                    (attempt / name / mark).unlink(missing_ok=True)
                try:
                    os.rename(attempt / name, self._workdir / name)
                except OSError as error:
                    if not self.is_published(name):
                        reasons[name] = f"it is trained, and cannot be put into its folder ({error.strerror})"
        return reasons

    def is_published(self, name: str) -> bool:
        """Whether the run's result exists."""
        return (self._workdir / name / RESULT).exists()

    def discard(self, claim: Claim) -> None:
        """Deletes the folders of the attempts."""
        for number in range(1, claim.number + 1):
            shutil.rmtree(self._workdir / key_of(claim, number), ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """A copy of a run's folder; what a worker that still lives deletes meanwhile is missed.

    Raises:
        OSError: something that is there could not be copied.
    """
    partial = target.with_name(f".{target.name}")
    try:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(".*"))
    except FileNotFoundError:
        return
    except shutil.Error as error:
        if reasons := [why for missed, _, why in error.args[0] if os.path.exists(missed)]:
            raise OSError(f"what was trained before could not be copied ({reasons[0]})") from None
    os.rename(partial, target)


class InBucket:
    """A workdir in a bucket: an attempt is a folder of this machine, mirrored under a prefix of its own.

    A run is published object by object, its result last, and nothing is written over: whoever goes on after a
    worker that was lost while it published has the same bytes from its mirror.
    """

    def __init__(self, place: Bucket, folder: Path, programs: Programs):
        """
        Args:
            folder: of this machine, for all attempts of one worker.
            programs: what was compiled, which is fetched and kept beside.
        """
        self._place, self._folder, self._programs = place, folder, programs
        self._mirror: Mirror | None = None

    def prepare(self, claim: Claim, names: Iterable[str]) -> Path:
        """Fetches what was pushed."""
        self._programs.pull()
        attempt = self._folder / key_of(claim)
        attempt.mkdir(parents=True)
        for number in range(claim.number - 1, 0, -1):
            if mirror.pull(self._place.below(key_of(claim, number)), attempt):
                break
        for name in self._published(names):
            shutil.rmtree(attempt / name, ignore_errors=True)
            published = self._place.below(name)
            published.get_all(published.objects(), attempt / name)
        self._mirror = Mirror(self._place.below(key_of(claim)), attempt)
        return attempt

    def save(self) -> None:
        """Pushes what is new, while training goes on."""
        self._programs.push()
        if self._mirror:
            self._mirror.begin()

    def wait(self) -> None:
        """Waits until it is pushed."""
        if self._mirror:
            self._mirror.wait()

    def publish(self, claim: Claim, names: Iterable[str]) -> dict[str, str]:
        """Creates the objects of all runs at once, and then the results."""
        attempt = self._folder / key_of(claim)
        trained = [name for name in names if (attempt / name / RESULT).exists()]
        left = sorted({*trained} - {*self._published(trained)})
        files = [x for x in mirror.of_readers(mirror.kept_files(attempt)) if x.partition("/")[0] in left]
        try:
            mirror.publish(self._place, attempt, files, lambda: False)
        except PermissionError as error:
            reason = f"it is trained, and cannot be put into its folder ({error})"
            return dict.fromkeys({*left} - {*self._published(left)}, reason)
        return {}

    def _published(self, names: Iterable[str]) -> list[str]:
        """Those of some runs that are finished."""
        names = list(names)
        return [name for name, there in zip(names, at_once(self.is_published, names), strict=True) if there]

    def is_published(self, name: str) -> bool:
        """Whether the run's result exists."""
        return self._place.stat(f"{name}/{RESULT}") is not None

    def discard(self, claim: Claim) -> None:
        """Deletes the attempts' objects and the local folder."""
        self._mirror = None
        shutil.rmtree(self._folder / key_of(claim), ignore_errors=True)
        for number in range(1, claim.number + 1):
            old = self._place.below(key_of(claim, number))
            old.delete(old.objects())
