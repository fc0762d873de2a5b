"""The names of datasets: which loader reads what."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pini_jax.core import copies
from pini_jax.core.bucket import is_url
from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.data.datasets import coop, digits, findings, folder, memory, packs, tables, tfds
from pini_jax.data.datasets.findings import Findings
from pini_jax.data.datasets.packs import Pack
from pini_jax.data.datasets.records import Dataset


def _path(name: str, root: str) -> Path:
    """A file or folder, or the copy of one in a bucket; a relative one is under `root`."""
    return copies.local(copies.join_place(root, name))


def _root(root: str, folder: str) -> str:
    """A root that has this folder: of a bucket, only that much is copied."""
    return str(copies.local(copies.join_place(root, folder)).parent) if is_url(root) else root


class Source(NamedTuple):
    """A kind of dataset.

    Attributes:
        pattern: regular expression for the whole name; its one group is what `find` gets.
        find: (name, root, seed) -> what is found.
        cut: whether splits may be cut here, so that they belong beside the results.
        has_images: whether there are images, and not features alone.
        own: whether the images are the user's own files, of which `unreadable.set_aside` may leave some out.
        pack: (name, root) -> the features, where there are no images.
    """

    pattern: str
    find: Callable[[str, str, int], Findings]
    cut: bool = False
    has_images: bool = True
    own: bool = False
    pack: Callable[[str, str], Pack] = lambda name, root: packs.load_pack(_path(name, root))


def _data_dir(root: str) -> Path | None:
    return Path(os.path.expanduser(root)) if root else None


def _table(name: str, root: str, seed: int) -> Findings:
    place = copies.join_place(root, name)
    return tables.find_table(tables.fetch_table(place) if is_url(place) else Path(place), seed)


def _tfds(name: str, root: str, seed: int) -> Findings:
    return tfds.find_tfds(name, _data_dir(_root(root, re.split("[/:]", name)[0])), seed)


SOURCES = {
    "digits": Source("(digits)", lambda name, root, seed: findings.inspect(digits.load_digits(), {})),
    "folder:PATH": Source(
        "folder:(.+)", lambda name, root, seed: folder.find_folder(_path(name, root), seed), cut=True, own=True
    ),
    "tfds:NAME": Source("tfds:(.+)", _tfds, cut=True),
    "features:PATH.npz": Source(
        "features:(.+)", lambda name, root, seed: packs.load_pack(_path(name, root)).findings, has_images=False
    ),
    "PATH.csv": Source(r"(.+\.(?i:csv))", _table, cut=True, own=True),
    "PATH.jsonl": Source(r"(.+\.(?i:jsonl))", _table, cut=True, own=True),
    "memory:HASH": Source("(memory:.+)", lambda name, root, seed: memory.held_images(name)),
    "memory_features:HASH": Source(
        "(memory_features:.+)",
        lambda name, root, seed: memory.find_pack(name).findings,
        has_images=False,
        pack=lambda name, root: memory.find_pack(name),
    ),
}
# The datasets of the papers, each in its folder under the root.
_PAPERS = Source(
    f"({'|'.join(coop.LAYOUTS)})",
    lambda name, root, seed: coop.find_coop(name, Path(_root(root, coop.LAYOUTS[name].folder))),
)
SOURCES |= dict.fromkeys(coop.LAYOUTS, _PAPERS)


def load_dataset(name: str, root: str, seed: int = 0) -> Dataset:
    """The dataset of that name.

    Args:
        name: as a key of `SOURCES` has it.
        root: folder that relative paths start from, and where TFDS keeps its datasets; "" for the working folder,
            and for TFDS's own.
        seed: of the splits that a dataset does not have itself: the same for all runs, whatever their seeds.

    Raises:
        InputError: there is no such dataset, or something is wrong with it; all problems are named.
    """
    return find_dataset(name, root, seed).accepted()


def find_dataset(name: str, root: str, seed: int = 0) -> Findings:
    """Like `load_dataset`, but problems that the user can correct are returned in the findings.

    Raises:
        InputError: there is no such dataset.
    """
    source, rest = kind_of(name)
    return source.find(rest, root, seed)


def has_images(name: str) -> bool:
    """Whether the dataset of that name has images, and not features alone."""
    return kind_of(name)[0].has_images


def open_pack(name: str, root: str) -> Pack:
    """The features of a dataset without images.

    Raises:
        InputError: they cannot be used.
    """
    source, rest = kind_of(name)
    return source.pack(rest, root)


def kind_of(name: str) -> tuple[Source, str]:
    """The kind of a dataset, and what its loader wants to know.

    Raises:
        InputError: no kind of dataset is called so.
    """
    for source in SOURCES.values():
        if match := re.fullmatch(source.pattern, name):
            return source, match[1]
    if name and os.path.isdir(os.path.expanduser(name)):
        raise InputError(f"dataset {name!r} is a folder: write it as folder:{name}")
    kind, colon, _ = name.partition(":")
    raise InputError(f"there is no dataset {name!r}{did_you_mean(kind + colon, SOURCES)}")
