"""What a folder of this machine holds, kept in a bucket by its one writer, so that another machine can go on.

| object          | what                                                                                     |
|-----------------|------------------------------------------------------------------------------------------|
| `packs/HASH`    | the contents of files that a push found new, one after the other: never written over      |
| `manifest.json` | {name: hash} of all files, and where these contents are; written when all of them are there |

So the manifest tells a whole state at any moment, wherever a writer was killed: what it does not name yet, or no
longer, counts for nothing. A push is three requests, however many files there are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pini_jax.core.bucket import Bucket, at_once, check_key
from pini_jax.core.errors import InputError
from pini_jax.core.paths import CHECKPOINTS, RESULT

MANIFEST = "manifest.json"
OTHER = "; choose another workdir"
TRIES = 3  # of a pull: its writer may delete what an older manifest names
PASSING = ".orbax-checkpoint-tmp"  # in the names of what Orbax has not finished


class Known(NamedTuple):
    """A file as it was when it was read: what the file system reports, and the hash of its content."""

    size: int
    modified: int
    sha256: str


class Extent(NamedTuple):
    """The place of a file's content: a range of bytes in a pack."""

    pack: str
    start: int
    size: int


class Manifest(NamedTuple):
    """What a bucket holds of a folder.

    Attributes:
        files: {name: hash} of all files.
        published: {name: hash} of those that readers find under the files' own names.
        parts: {hash: place} of the contents.
    """

    files: Mapping[str, str]
    published: Mapping[str, str]
    parts: Mapping[str, Extent]

    @property
    def is_published(self) -> bool:
        """Whether readers find all that is of use to them."""
        return self.published == {name: self.files[name] for name in of_readers(self.files)}

    @property
    def packs(self) -> set[str]:
        """The names of the packs that hold some of its files."""
        return {part.pack for part in self.parts.values()}


EMPTY = Manifest({}, {}, {})


class Mirror:
    """The one writer of what lies under a prefix of a bucket."""

    def __init__(self, place: Bucket, folder: Path, state: Manifest = EMPTY):
        """
        Args:
            place: where nobody else writes.
            folder: of this machine; nothing writes into it while a push reads it.
            state: what was pulled into the folder, from where another writer was; where all of it is published,
                nothing is written before something is new.
        """
        self._place, self._folder = place, folder
        self._state, self._owns = state._replace(parts={}), False
        self._known: dict[str, Known] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._begun: Future[None] | None = None

    def push(self) -> bool:
        """Puts what is new or has changed; a state that was pushed before stays whole until this one is.

        Returns:
            whether anything was.

        Raises:
            OSError: the store gives no answer.
        """
        begun = self.begin()
        self.wait()
        return begun

    def begin(self) -> bool:
        """Reads what is new or has changed, and puts it while the caller goes on.

        Raises:
            OSError: the store gave no answer to what was begun before.
        """
        self.wait()
        names = kept_files(self._folder)
        found = {name: own for name, own in zip(names, at_once(self._read, names), strict=True) if own}
        self._known = {name: known for name, (known, _) in found.items()}
        files = {name: known.sha256 for name, known in self._known.items()}
        if files == self._state.files and (self._owns or self._state.is_published):
            return False
        contents = {
            files[name]: content or (self._folder / name).read_bytes()
            for name, (_, content) in found.items()
            if files[name] not in self._state.parts
        }
        self._begun = self._pool.submit(self._put, files, contents)
        return True

    def wait(self) -> None:
        """Until what was begun is there.

        Raises:
            OSError: the store gives no answer.
        """
        begun, self._begun = self._begun, None
        if begun:
            begun.result()

    def _put(self, files: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
        parts, before = dict(self._state.parts), self._state.packs
        if contents:
            pack = b"".join(contents.values())
            name = hashlib.sha256(pack).hexdigest()
            self._place.put(f"packs/{name}", pack)
            starts = itertools.accumulate(map(len, contents.values()), initial=0)
            parts |= {own: Extent(name, start, len(contents[own])) for own, start in zip(contents, starts)}  # noqa: B905
        self._write(Manifest(files, self._state.published, {own: parts[own] for own in files.values()}))
        self._place.delete(f"packs/{name}" for name in before - self._state.packs)

    def publish(self, target: Bucket, holds: Callable[[], bool]) -> None:
        """Puts the files under their own names where readers look, each run's result last.

        Args:
            holds: whether nobody else may write there by now.
        """
        names = of_readers(self._state.files)
        publish(target, self._folder, names, holds)
        target.delete(self._state.published.keys() - set(names))
        self._write(self._state._replace(published={name: self._state.files[name] for name in names}))

    def _write(self, state: Manifest) -> None:
        self._place.put(MANIFEST, json.dumps(state._asdict()).encode())
        self._state, self._owns = state, True

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
        names = list(state.packs)
        packs = dict(zip(names, at_once(lambda name: place.read(f"packs/{name}"), names), strict=True))
        contents = {own: _part(packs[part.pack], part, own) for own, part in state.parts.items()}
        if not (missing := [name for name, own in state.files.items() if contents.get(own) is None]):
            for name, own in state.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(contents[own] or b"")
            return state
    raise InputError(f"{place.url} is damaged: {missing[0]} is missing or does not match its hash{OTHER}")


def _manifest(place: Bucket) -> Manifest | None:
    if (content := place.read(MANIFEST)) is None:
        return None
    try:
        said = json.loads(content)
        files, published = (
            {check_key(name): str(sha256) for name, sha256 in said[key].items()} for key in ("files", "published")
        )
        parts = {
            own: Extent(check_key(pack), int(start), int(size))
            for own, (pack, start, size) in said["parts"].items()
        }
        return Manifest(files, published, parts)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{place.url}/{MANIFEST} is damaged{OTHER}") from None


def _part(pack: bytes | None, part: Extent, sha256: str) -> bytes | None:
    """A content, if it is whole."""
    content = (pack or b"")[part.start : part.start + part.size]
    return content if pack is not None and hashlib.sha256(content).hexdigest() == sha256 else None
