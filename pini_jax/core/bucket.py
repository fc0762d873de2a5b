"""Objects of a bucket: `gs://`, `s3://`, and `memory://` in tests, through fsspec.

An object is whole or not there. A request whose answer is lost or late is made again, a few times.
"""

from __future__ import annotations

import contextlib
import datetime
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pini_jax.core import extras
from pini_jax.core.errors import InputError, last_line

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}  # what opens which scheme
SECONDS = 15.0  # until an answer begins or goes on: less than leases last, and no limit to a large object
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before the second, third, ... try
AT_ONCE = 32  # requests under way: a bucket takes 50 ms for each
TIMES = ("LastModified", "mtime", "created")  # what stores call the time of the last write
TAGS = ("ETag", "etag")  # what they call what changes with the content; where there is none, the time must do
In = TypeVar("In")
Out = TypeVar("Out")


def is_url(place: str) -> bool:
    """Whether a place is in a bucket, and not on this machine."""
    return place.partition("://")[0] in PACKAGES and "://" in place


class Stat(NamedTuple):
    """What a store reports about an object.

    Attributes:
        tag: changes with the content.
        written: when, in seconds, by the clock of the store.
    """

    size: int
    tag: str
    written: float


class Bucket(NamedTuple):
    """The objects under a prefix of a bucket; a `Store`.

    Attributes:
        url: such as gs://bucket/runs/digits.
        files: the file system of fsspec that has it.
        root: the prefix, as `files` calls it.
    """

    url: str
    files: Any
    root: str

    def below(self, folder: str) -> Bucket:
        """The objects in a folder of this one."""
        return self._replace(url=f"{self.url}/{folder}", root=self._path(folder))

    def create(self, key: str, content: bytes) -> bool:
        """Writes an object if absent, by the store's own precondition; of several writers of different contents
        one gets True.
        """
        try:
            self._ask(lambda: self.files.pipe_file(self._path(key), content, mode="create"))
        except FileExistsError:
            return self.read(key) == content  # it may be what was written before an answer was lost
        return True

    def write(self, key: str, content: bytes) -> float:
        """Writes or overwrites an object, and returns when it was written."""
        self.put(key, content)
        return _written(self._ask(lambda: self.files.info(self._path(key))))

    def put(self, key: str, content: bytes) -> None:
        """Writes or overwrites an object."""
        self._ask(lambda: self.files.pipe_file(self._path(key), content))

    def read(self, key: str) -> bytes | None:
        """The whole object, or None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            return self._ask(lambda: self.files.cat_file(self._path(key)))
        return None

    def get(self, key: str, path: Path) -> None:
        """Copies an object into a file.

        Raises:
            FileNotFoundError: there is no such object.
        """
        self._ask(lambda: self.files.get_file(self._path(key), str(path)))

    def get_all(self, keys: Iterable[str], folder: Path) -> None:
        """Copies many objects into a folder, under their keys.

        Raises:
            FileNotFoundError: as in `get`.
        """

        def get(key: str) -> None:
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            self.get(key, folder / key)

        at_once(get, keys)

    def times(self, folder: str) -> dict[str, float]:
        """{name: when it was last written} of a folder's objects, with one request per thousand."""
        with contextlib.suppress(FileNotFoundError):
            entries = self._ask(lambda: self.files.ls(self._path(folder), detail=True))
            return {x["name"].rpartition("/")[2]: _written(x) for x in entries if x["type"] == "file"}
        return {}

    def names(self) -> set[str]:
        """The names of the folders and objects directly in it."""
        with contextlib.suppress(FileNotFoundError):
            entries = self._ask(lambda: self.files.ls(self.root, detail=False))
            return {name.rstrip("/").rpartition("/")[2] for name in entries}
        return set()

    def objects(self, folder: str = "") -> dict[str, Stat]:
        """All objects below a folder, by keys relative to it.

        Raises:
            InputError: a key leads out of the folder, as one of a file system could.
        """
        root = self._path(folder)
        with contextlib.suppress(FileNotFoundError):
            found = self._ask(lambda: self.files.find(root, detail=True))
            entries = {name[len(root) + 1 :]: x for name, x in found.items() if name.startswith(f"{root}/")}
            return {check_key(key): _stat(entry) for key, entry in entries.items() if not key.endswith("/")}
        return {}

    def stat(self, key: str = "") -> Stat | None:
        """What the store reports about an object, or about the bucket's own root if there is no key; None if
        absent.
        """
        with contextlib.suppress(FileNotFoundError):
            entry = self._ask(lambda: self.files.info(self._path(key)))
            return _stat(entry) if entry["type"] == "file" else None
        return None

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects, some of which may be gone already."""

        def delete(key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._ask(lambda: self.files.rm_file(self._path(key)))

        at_once(delete, keys)

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    def _ask(self, request: Callable[[], Out]) -> Out:
        """The answer to a request.

        Raises:
            OSError: there is none; or the store refuses.
        """
        for pause in (*PAUSES, None):
            try:
                return request()
            except (FileNotFoundError, FileExistsError):
                raise
            except PermissionError as error:
                raise PermissionError(f"{self.url}: access is refused ({last_line(error)})") from None
            except Exception as error:  # of fsspec, of what opens the scheme, or of the network
                if pause is None:
                    raise OSError(f"{self.url} gives no answer ({last_line(error)})") from error
                time.sleep(pause * random.uniform(0.5, 1.0))
        raise AssertionError


def open_bucket(url: str) -> Bucket:
    """The bucket of a URL; no request is made.

    Raises:
        InputError: the packages of its scheme are not installed.
    """
    scheme, _, path = url.rstrip("/").partition("://")
    extras.require(PACKAGES[scheme], "bucket")
    files = extras.require("fsspec", "bucket").filesystem(scheme, use_listings_cache=False, **_timeouts(scheme))
    return Bucket(f"{scheme}://{path}", files, files._strip_protocol(f"{scheme}://{path}"))


def _timeouts(scheme: str) -> dict[str, Any]:
    """How the file system of a scheme is told SECONDS."""
    if scheme == "gs":
        waits = extras.require("aiohttp", "bucket").ClientTimeout
        return {"requests_timeout": waits(total=None, sock_connect=SECONDS, sock_read=SECONDS)}
    if scheme == "s3":
        return {"config_kwargs": {"connect_timeout": SECONDS, "read_timeout": SECONDS}}
    return {}


def check_key(key: str) -> str:
    """A key, if it is the path of a file within a folder.

    Raises:
        InputError: it is not.
    """
    if re.search(r"(^|/)(\.{0,2})(/|$)", key) or "\\" in key or "\0" in key:
        raise InputError(f"{key!r} is an object's key that no file can have")
    return key


def at_once(ask: Callable[[In], Out], questions: Iterable[In]) -> list[Out]:
    """The answers to many questions, asked side by side."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, questions))


def _stat(entry: Mapping[str, Any]) -> Stat:
    tags = (entry[key] for key in TAGS if key in entry)
    return Stat(int(entry["size"]), str(next(tags, _written(entry))), _written(entry))


def _written(entry: Mapping[str, Any]) -> float:
    when = next(entry[key] for key in TIMES if key in entry)
    return when.timestamp() if isinstance(when, datetime.datetime) else float(when)
