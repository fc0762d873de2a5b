"""Copies of what lies in buckets, in the cache of this machine, where everything else reads it.

An object is fetched once: it is known by its address and what the store says of its content. A folder is a tree of
links to such objects, known by all of them together. Both are whole or not there, whoever else makes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from pini_jax.core.bucket import Bucket, Stat, at_once, is_url, open_bucket
from pini_jax.core.errors import InputError
from pini_jax.core.paths import beside, cache_folder

LOG = logging.getLogger(__name__)
ADDRESS = "address"  # the file of a tree that says where it was copied from
TRIES = 5  # of a link, before it counts that there is nothing to link to


def local(place: str) -> Path:
    """A path on this machine: the place itself, or the copy of what is in a bucket.

    Raises:
        InputError: as in `fetch_copy`.
    """
    return fetch_copy(place) if is_url(place) else Path(os.path.expanduser(place))


def join_place(root: str, name: str) -> str:
    """A place of this machine or of a bucket; what is whole already does not start from the root."""
    if is_url(name):
        return name
    return (
        f"{root.rstrip('/')}/{name}"
        if is_url(root)
        else str(Path(os.path.expanduser(root), os.path.expanduser(name)))
    )


def fetch_copy(url: str, wanted: Callable[[str], bool] = lambda key: True) -> Path:
    """The copy of an object, or of the objects below a folder that are wanted.

    Raises:
        InputError: there are none, or the packages that open such a bucket are not installed.
        OSError: the store gives no answer.
    """
    url = url.rstrip("/")
    place = open_bucket(url)
    if stat := place.stat():
        folder, _, name = url.rpartition("/")
        return _tree(open_bucket(folder), {name: stat}) / name
    found = {key: stat for key, stat in place.objects().items() if wanted(key)}
    if not found:
        raise InputError(f"{url} does not exist, or holds nothing of use here")
    return _tree(place, found)


def name_of(path: Path) -> str:
    """The name of a copy, the same on every machine as long as its content is the same; "" if it is not a copy."""
    return path.relative_to(_trees()).as_posix() if path.is_relative_to(_trees()) else ""


def place_of(path: Path) -> str:
    """Where something really is: in a bucket, if the path is of a copy, and otherwise the path itself."""
    if not path.is_relative_to(_trees()):
        return str(path)
    tree, _, *names = path.relative_to(_trees()).parts
    address = _trees() / tree / ADDRESS  # which copies of earlier versions lack
    return "/".join([address.read_text("utf-8"), *names]) if address.exists() else str(path)


def _trees() -> Path:
    return cache_folder() / "buckets" / "trees"


def _tree(place: Bucket, found: Mapping[str, Stat]) -> Path:
    """Links to the copies of some objects, under their keys."""
    name = _hash(place.url, *(f"{key} {stat.size} {stat.tag}" for key, stat in sorted(found.items())))
    tree = _trees() / name
    whole = tree / place.url.rpartition("/")[2]
    if whole.exists():
        return whole
    LOG.info("%s: copying what is not here of %d objects", place.url, len(found))
    copies = dict(zip(found, at_once(lambda key: _copy(place, key, found[key]), found), strict=True))
    partial = tree.with_name(f"{name}.{uuid.uuid4().hex}")
    for key, copy in copies.items():
        link = partial / whole.name / key
        link.parent.mkdir(parents=True, exist_ok=True)
        _link(copy, link)
    (partial / ADDRESS).write_text(place.url, "utf-8")
    try:
        os.rename(partial, tree)
    except OSError:
        shutil.rmtree(partial)
        if not whole.exists():
            raise
    return whole


def _link(copy: Path, link: Path) -> None:
    """A hard link, tried again where another thread replaces the copy: some file systems then find none."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            os.link(copy, link)
            return
    os.link(copy, link)


def _copy(place: Bucket, key: str, stat: Stat) -> Path:
    """One object's copy."""
    name = _hash(place.url, key, str(stat.size), stat.tag)
    copy = cache_folder() / "buckets" / "objects" / name[:2] / name
    if copy.exists() and copy.stat().st_size == stat.size:
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    again = "while it was copied: run the same command again"
    try:
        with beside(copy) as partial:
            place.get(key, partial)
            now = place.stat(key)
            if now is None or now[:2] != stat[:2] or partial.stat().st_size != stat.size:
                raise InputError(f"{place.url}/{key} was changed {again}")
    except FileNotFoundError:
        raise InputError(f"{place.url}/{key} was deleted {again}") from None
    return copy


def _hash(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()
