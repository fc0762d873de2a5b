"""What a folder of this machine holds, kept in a bucket by its one writer, so that another machine can go on.

| object          | what                                                                 |
|-----------------|----------------------------------------------------------------------|
| `objects/HASH`  | the content of a file, under its SHA-256: never written over          |
| `manifest.json` | {name: hash} of all files; written when all of their objects are there |

So the manifest tells a whole state at any moment, wherever a writer was killed: what it does not name yet, or no
longer, counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pini_jax.core.bucket import Bucket, at_once, check_key
from pini_jax.core.errors import InputError

MANIFEST = "manifest.json"
RESULT = "result.json"  # a run that has it is finished
CHECKPOINTS = "checkpoints"  # of use to who goes on, and to no reader
OTHER = "; choose another workdir"
TRIES = 3  # of a pull: its writer may delete what an older manifest names
PASSING = ".orbax-checkpoint-tmp"  # in the names of what Orbax has not finished


class Known(NamedTuple):
    """A file as it was when it was read: what the file system says of it, and the hash of its content."""

    size: int
    modified: int
    sha256: str


class Manifest(NamedTuple):
    """What a bucket holds of a folder.

    Attributes:
        files: {name: hash} of all files.
        published: {name: hash} of those that readers find under the files' own names.
    """

    files: Mapping[str, str]
    published: Mapping[str, str]

    @property
    def is_published(self) -> bool:
        """Whether readers find all that is of use to them."""
        return self.published == {name: self.files[name] for name in of_readers(self.files)}


EMPTY = Manifest({}, {})


class Mirror:
    """The one writer of what lies under a prefix of a bucket."""

    def __init__(self, place: Bucket, folder: Path, state: Manifest = EMPTY):
        """
        Args:
            place: where nobody else writes.
            folder: of this machine; nothing writes into it during a push.
            state: what was pulled into the folder, from where another writer was; where all of it is published,
                nothing is written before something is new.
        """
        self._place, self._folder, self._state = place, folder, state
        self._known: dict[str, Known] = {}
        self._stored: set[str] = set()

    def push(self) -> bool:
        """Puts what is new or has changed; a state that was pushed before stays whole until this one is.

        Returns:
            whether anything was.

        Raises:
            OSError: the store gives no answer.
        """
        names = kept_files(self._folder)
        found = {name: own for name, own in zip(names, at_once(self._read, names), strict=True) if own}
        self._known = {name: known for name, (known, _) in found.items()}
        files = {name: known.sha256 for name, known in self._known.items()}
        if files == self._state.files and (self._stored or self._state.is_published):
            return False
        if missing := set(files.values()) - self._stored:
            contents = {
                files[name]: content or (self._folder / name).read_bytes()
                for name, (_, content) in found.items()
                if files[name] in missing
            }
            at_once(lambda sha256: self._place.put(f"objects/{sha256}", contents[sha256]), contents)
            self._stored |= missing
        self._write(Manifest(files, self._state.published))
        gone = self._stored - set(files.values())
        self._place.delete(f"objects/{sha256}" for sha256 in gone)
        self._stored -= gone
        return True

    def publish(self, target: Bucket, holds: Callable[[], bool]) -> None:
        """Puts the files under their own names where readers look, each run's result last.

        Args:
            holds: whether nobody else may write there by now.
        """
        names = of_readers(self._state.files)
        publish(target, self._folder, names, holds)
        target.delete(self._state.published.keys() - set(names))
        self._write(Manifest(self._state.files, {name: self._state.files[name] for name in names}))

    def _write(self, state: Manifest) -> None:
        self._place.put(MANIFEST, json.dumps(state._asdict()).encode())
        self._state = state

    def _read(self, name: str) -> tuple[Known, bytes] | None:
        """What is known of a file, with its content where it has changed; None where the file is gone."""
        try:
            path = self._folder / name
            status = path.stat()
            known = self._known.get(name)
            if known and known[:2] == (status.st_size, status.st_mtime_ns):
                return known, b""
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        return Known(status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest()), content


def publish(target: Bucket, folder: Path, names: Iterable[str], holds: Callable[[], bool]) -> None:
    """Puts files of a folder under their own names, each run's result last.

    Raises:
        PermissionError: something else is there already, and is not ours to write over.
    """
    last = {name for name in names if name.rpartition("/")[2] == RESULT}
    for some in (sorted(set(names) - last), sorted(last)):
        created = at_once(lambda name: target.create(name, (folder / name).read_bytes()), some)
        others = [name for name, alone in zip(some, created, strict=True) if not alone]
        if others and not holds():
            raise PermissionError(f"{target.url}/{others[0]} was written by somebody else")
        at_once(lambda name: target.put(name, (folder / name).read_bytes()), others)


def of_readers(names: Iterable[str]) -> list[str]:
    """The names of what is of use to readers: all but checkpoints."""
    return [name for name in names if CHECKPOINTS not in name.split("/")]


def kept_files(folder: Path) -> list[str]:
    """The names of what is to be kept of a folder: of files that are neither hidden nor in the making."""
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and PASSING not in name]
        found += [Path(top, name).relative_to(folder).as_posix() for name in names if not name.startswith(".")]
    return sorted(found)


def pull(place: Bucket, folder: Path) -> Manifest | None:
    """Writes what a manifest names into a folder; None where there is none.

    Raises:
        InputError: something of it is damaged or missing.
        OSError: the store gives no answer.
    """
    missing: list[str] = []
    for _ in range(TRIES):
        if (state := _manifest(place)) is None:
            return None
        names = list(state.files)
        found = at_once(lambda name: _get(place, folder / name, state.files[name]), names)  # noqa: B023, asked at once
        if not (missing := [name for name, whole in zip(names, found, strict=True) if not whole]):
            return state
    raise InputError(f"{place.url} is damaged: {missing[0]} is missing or does not match its hash{OTHER}")


def _manifest(place: Bucket) -> Manifest | None:
    if (content := place.read(MANIFEST)) is None:
        return None
    try:
        said = json.loads(content)
        files, published = (
            {check_key(name): str(sha256) for name, sha256 in said[key].items()} for key in Manifest._fields
        )
        return Manifest(files, published)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{place.url}/{MANIFEST} is damaged{OTHER}") from None


def _get(place: Bucket, path: Path, sha256: str) -> bool:
    content = place.read(f"objects/{sha256}")
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True
