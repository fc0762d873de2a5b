"""The storage that workers communicate through: small objects under keys, in a folder or bucket that all see.

There are five requests: create if absent, put, write (put and tell the time), read, times. A key is a path such as
`claims/0001/a.claim`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path
from typing import NamedTuple, Protocol

from pini_jax.core.bucket import is_url, open_bucket
from pini_jax.core.errors import InputError

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems say that have none


class Store(Protocol):
    """Objects under keys; each is whole or absent, and times are by the store's own clock."""

    def create(self, key: str, content: bytes) -> bool:
        """Writes an object if there is none under that key; of several writers that try, one gets True.

        Where the same content is there already the answer may be yes as well.
        """

    def put(self, key: str, content: bytes) -> None:
        """Writes or overwrites an object."""

    def write(self, key: str, content: bytes) -> float:
        """Writes or overwrites an object, and returns when it was written, in seconds."""

    def read(self, key: str) -> bytes | None:
        """The content of an object, or None where there is none."""

    def times(self, folder: str) -> dict[str, float]:
        """{name: when it was last written, in seconds} of the objects directly in a folder."""

    def names(self) -> set[str]:
        """Of the folders and objects right in the store."""


def open_store(place: str | Path) -> Store:
    """Opens a folder on this machine, or in a bucket, as a store.

    Raises:
        InputError: the packages that open such a bucket are not installed.
    """
    return open_bucket(str(place)) if is_url(str(place)) else Folder(Path(place))


class Folder(NamedTuple):
    """A store in a folder of a file system that many machines may mount; it must have hard links, as NFS has."""

    root: Path

    def create(self, key: str, content: bytes) -> bool:
        """Creates the object by a hard link to a file that is already complete.

        Raises:
            InputError: the file system has no such links.
        """
        partial = self._partial(key, content)
        try:
            os.link(partial, self.root / key)
        except FileExistsError:
            return partial.stat().st_nlink > 1  # where the server has made the link, and its answer was lost
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            raise InputError(
                f"{self.root} has no hard links ({error.strerror}), by which workers tell who was first: a mounted"
                " bucket has none, and a disk or NFS has them"
            ) from None
        finally:
            partial.unlink()
        return True

    def put(self, key: str, content: bytes) -> None:
        """Writes the object by a rename."""
        os.replace(self._partial(key, content), self.root / key)

    def write(self, key: str, content: bytes) -> float:
        """Writes the object, and returns its time by the file server's clock."""
        self.put(key, content)
        return (self.root / key).stat().st_mtime

    def read(self, key: str) -> bytes | None:
        """The content of the file, or None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            return (self.root / key).read_bytes()
        return None

    def names(self) -> set[str]:
        """The names of the folders and files directly in it."""
        return set(os.listdir(self.root)) if self.root.is_dir() else set()

    def times(self, folder: str) -> dict[str, float]:
        """The times of a folder's files, except incomplete ones."""
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
