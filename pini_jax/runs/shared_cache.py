"""What workers of a sweep share beside its runs: image features and compiled programs, files of the cache.

In the sweep's bucket, `.sweep/cache/`, lie

| objects                   | what                                                                        |
|---------------------------|-----------------------------------------------------------------------------|
| `features/KEY/*.npz`      | features, in chunks, as `data.features` keeps them; KEY names what they are of |
| `features/KEY/claims/`    | who encodes which chunk                                                     |
| `programs/KIND/`          | compiled programs, as JAX keeps them, for a kind of processor               |

A chunk is encoded by one worker, which claims it as it claims units of work; whoever needs it meanwhile takes
another chunk, or waits. Files of the cache are under names that tell all that shaped them, so that none changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from pini_jax.core import stop
from pini_jax.core.bucket import Bucket, at_once, is_url
from pini_jax.core.errors import last_line
from pini_jax.core.paths import beside
from pini_jax.runs.claims import RENEWALS, Claims, worker_name
from pini_jax.runs.lease import Lease

PAUSE = 1.0  # seconds that a worker waits for chunks of others
ALWAYS = 10**9  # times that a chunk is tried: whoever fails says why itself
CPU_INFO = Path("/proc/cpuinfo")
LOG = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------------ features


def share_features(place: Bucket, files: Sequence[Path], make: Callable[[int], None] | None, lease: float) -> None:
    """Fetches files of the cache that are in the bucket, and makes the others.

    Args:
        files: the chunks of one folder, all of them.
        make: writes the file of a number; none where its features cannot be made, for a reason that whoever needs
            them finds out again. None makes no file, and waits for none.
    """
    own = place.below(f"features/{files[0].parent.name}")
    claims = Claims(own, len(files), worker_name(), lease=lease, retries=ALWAYS)
    over = False
    while missing := [file for file in files if not file.exists()]:
        stop.raise_if_requested()
        there = own.times("")
        at_once(lambda file: _fetch(own, file), [file for file in missing if file.name in there])
        if over or make is None or all(file.exists() for file in missing):
            return  # what is finished and not there is made again
        if claim := claims.take():
            file, kept = files[claim.unit], False
            try:
                with Lease(claims, claim):
                    if not file.exists():
                        make(claim.unit)
                    if kept := file.exists():
                        own.put(file.name, file.read_bytes())
            finally:
                claims.end(claim, "finished" if kept else "stopped", {})
            if not kept:
                return
        elif claims.is_over:
            over = True  # but somebody may have finished something since it was looked for
        else:
            time.sleep(min(PAUSE, lease / RENEWALS))


def _fetch(place: Bucket, file: Path) -> None:
    """A copy of an object of the same name, whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError), beside(file) as partial:
        place.get(file.name, partial)


# ------------------------------------------------------------------------------------------------ programs


@contextlib.contextmanager
def _spared() -> Iterator[None]:
    """A program that does not come is compiled: no run fails for it."""
    try:
        yield
    except OSError as error:
        LOG.warning("compiled programs are not shared now (%s)", last_line(error))


class Programs:
    """The compiled programs of this machine and those in the bucket; inactive if JAX keeps none here."""

    def __init__(self, place: Bucket):
        """
        Args:
            place: of the shared cache.
        """
        self._place = place.below(f"programs/{processor()}")
        folder = getattr(jax.config, "jax_compilation_cache_dir", None)
        self._folder = Path(folder) if folder and not is_url(folder) else None
        self._known = self._here()

    @_spared()
    def pull(self) -> None:
        """Fetches what others have compiled."""
        if self._folder:
            folder = self._folder
            new = self._place.times("").keys() - self._known
            at_once(lambda name: _fetch(self._place, folder / name), new - self._here())
            self._known |= new

    @_spared()
    def push(self) -> None:
        """Puts what was compiled since."""
        if self._folder:
            folder, new = self._folder, self._here() - self._known
            at_once(lambda name: self._place.put(name, (folder / name).read_bytes()), new)
            self._known |= new

    def _here(self) -> set[str]:
        return {path.name for path in self._folder.glob("*-cache")} if self._folder else set()


def processor() -> str:
    """What programs are compiled for, as far as JAX's names of them do not tell: the features of a CPU."""
    if jax.default_backend() != "cpu":
        return jax.default_backend()
    said = CPU_INFO.read_text() if CPU_INFO.exists() else platform.processor()
    found = re.search(r"(?m)^(flags|Features)\s*:.*$", said)
    return f"cpu-{hashlib.sha256((found[0] if found else said).encode()).hexdigest()[:16]}"
