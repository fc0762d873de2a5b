"""Where workers that share nothing else meet: small objects under keys, in a folder or bucket that all see.

Four requests are all there is: create if absent, put, read, list. A key is a path such as `claims/0001/a.claim`.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import NamedTuple, Protocol

from pini_jax.core.bucket import is_url, open_bucket
from pini_jax.core.errors import InputError


class Store(Protocol):
    """Objects under keys; each is whole or not there, and times are by the clock of the store alone."""

    def create(self, key: str, content: bytes) -> bool:
        """Writes an object if there is none of that key; of several that try, one is told yes.

        Where the same content is there already the answer may be yes as well.
        """

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, over what was there."""

    def write(self, key: str, content: bytes) -> float:
        """The same, and asks when that was, in seconds."""

    def read(self, key: str) -> bytes | None:
        """The content of an object, or None where there is none."""

    def times(self, folder: str) -> dict[str, float]:
        """{name: when it was last written, in seconds} of the objects right in a folder."""

    def names(self) -> set[str]:
        """Of the folders and objects right in the store."""


def open_store(place: str | Path) -> Store:
    """What a folder of this machine or of a bucket holds.

    Raises:
        InputError: the packages that open such a bucket are not installed.
    """
    return open_bucket(str(place)) if is_url(str(place)) else Folder(Path(place))


class Folder(NamedTuple):
    """A folder of a file system, perhaps one that many machines mount: it must have hard links, as NFS has."""

    root: Path

    def create(self, key: str, content: bytes) -> bool:
        """By a link to a file that is whole already.

        Raises:
            InputError: the file system has no such links.
        """
        partial = self._partial(key, content)
        try:
            os.link(partial, self.root / key)
        except FileExistsError:
            return False
        except OSError as error:
            raise InputError(
                f"{self.root} has no hard links ({error.strerror}), by which workers tell who was first: a mounted"
                " bucket has none, and a disk or NFS has them"
            ) from None
        finally:
            partial.unlink()
        return True

    def put(self, key: str, content: bytes) -> None:
        """By a rename."""
        os.replace(self._partial(key, content), self.root / key)

    def write(self, key: str, content: bytes) -> float:
        """The same; the time is that of the file's server."""
        self.put(key, content)
        return (self.root / key).stat().st_mtime

    def read(self, key: str) -> bytes | None:
        """Of a file."""
        with contextlib.suppress(FileNotFoundError):
            return (self.root / key).read_bytes()
        return None

    def names(self) -> set[str]:
        """Of the folders and files right in it."""
        return set(os.listdir(self.root)) if self.root.is_dir() else set()

    def times(self, folder: str) -> dict[str, float]:
        """Those of files, but for what is not whole yet."""
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if not entry.name.startswith(".") and entry.is_file():
                        found[entry.name] = entry.stat().st_mtime
        return found

    def _partial(self, key: str, content: bytes) -> Path:
        path = self.root / key
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            partial.write_bytes(content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
        return partial
