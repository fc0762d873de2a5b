"""A folder of class folders.

    PATH/CLASS/IMAGE.jpg                                        split by seed, as `pini_jax.data.splits` says
    PATH/train/CLASS/IMAGE.jpg, PATH/val/..., PATH/test/...     val or test may be missing; case does not matter

Images may lie in folders within their class's folder. Hidden files and files that are no images are ignored.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import findings, splits
from pini_jax.data.datasets.classes import is_text
from pini_jax.data.datasets.findings import Findings, Problem
from pini_jax.data.datasets.records import Dataset, Record

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TREE = "{0}/CLASS/IMAGE.jpg, or {0}/train/CLASS/IMAGE.jpg with {0}/test/ and perhaps {0}/val/ beside it"


class Tree(NamedTuple):
    """What lies under a folder, as relative paths with forward slashes.

    Attributes:
        images: files with the ending of an image.
        folders: those that are searched.
        ignored: all other files, what is hidden, and links to a folder that they lie in.
        broken: links to images that lead nowhere.
        garbled: names that are not UTF-8.
    """

    images: list[str]
    folders: list[str]
    ignored: list[str]
    broken: list[str]
    garbled: list[str]


def load(path: Path, seed: int) -> Dataset:
    """The images under `path`, sorted by their ids; class names are the names of the folders, sorted.

    Raises:
        InputError: there is no such folder, or not all in it is as it should be; all problems are named.
    """
    return find(path, seed).accepted()


def find(path: Path, seed: int) -> Findings:
    """As `load`, but what can be mended becomes the problems of the findings.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; expected {TREE.format(path)}")
    tree = scan(path)
    if not tree.images:
        raise InputError(f"{path} holds no image ({', '.join(SUFFIXES)}); expected {TREE.format(path)}")
    parts = _split_folders(tree)
    classes = sorted({place[1] for folder in tree.folders if (place := _place(f"{folder}/", parts))})
    labels = {name: label for label, name in enumerate(classes)}
    records: dict[str, list[Record]] = {split: [] for split in parts.values()} or {"train": []}
    stray = []
    for id in sorted(tree.images):
        if place := _place(id, parts):
            records[place[0]].append(Record(id, path / id, labels[place[1]]))
        else:
            stray.append(id)
    problems = [*_of_tree(tree, parts, stray), *_of_split_folders(parts, records, classes)]
    dataset = splits.complete(str(path), classes, records, seed)
    return findings.inspect(dataset, records if parts else {}, problems, tree.ignored)


def scan(path: Path) -> Tree:
    """Everything under a folder; links are followed.

    Raises:
        InputError: a folder cannot be read.
    """
    tree = Tree([], [], [], [], [])
    try:
        _scan(tree, str(path), "", (os.path.realpath(path),))
    except OSError as error:
        raise InputError(f"a folder cannot be read ({error})") from None
    return tree


def _scan(tree: Tree, folder: str, prefix: str, above: tuple[str, ...]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            id = prefix + entry.name
            if not is_text(entry.name):
                tree.garbled.append(id.encode("utf-8", "backslashreplace").decode())
            elif entry.name.startswith(".") or entry.name == "__MACOSX":
                tree.ignored.append(id)
            elif entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                if real in above:
                    tree.ignored.append(id)
                else:
                    tree.folders.append(id)
                    _scan(tree, entry.path, id + "/", (*above, real))
            elif not entry.name.lower().endswith(SUFFIXES):
                tree.ignored.append(id)
            elif entry.is_file():
                tree.images.append(id)
            else:
                (tree.broken if entry.is_symlink() else tree.ignored).append(id)


def _split_folders(tree: Tree) -> dict[str, str]:
    """{folder: split} where the folders at the top are splits, else nothing.

    They are if all those that hold images are called so, or if there is train/ with val/ or test/ beside it; a
    class may well be called "train".
    """
    holding = {id.partition("/")[0] for id in tree.images if "/" in id}
    top = {folder: splits.SPLITS.get(folder.lower()) for folder in tree.folders if "/" not in folder}
    called = {top[folder] for folder in holding}
    if None in called and not ("train" in called and called & {"val", "test"}):
        return {}
    return {folder: split for folder, split in sorted(top.items()) if split}


def _place(id: str, parts: dict[str, str]) -> tuple[str, str] | None:
    """Split and class of an image, if it lies in a class folder."""
    folders = id.split("/")[:-1]
    if parts:
        return (parts[folders[0]], folders[1]) if len(folders) > 1 and folders[0] in parts else None
    return ("train", folders[0]) if folders else None


def _of_tree(tree: Tree, parts: dict[str, str], stray: list[str]) -> Iterator[Problem]:
    if stray:
        within = f" within {', '.join(f'{folder}/' for folder in parts)}" if parts else ""
        yield Problem(f"images outside of a class folder{within}", tuple(stray))
    if tree.broken:
        yield Problem("images that are missing (broken links)", tuple(sorted(tree.broken)))
    if tree.garbled:
        yield Problem("names that are not UTF-8", tuple(sorted(tree.garbled)))


def _of_split_folders(
    parts: dict[str, str], records: dict[str, list[Record]], class_names: list[str]
) -> Iterator[Problem]:
    folders: dict[str, list[str]] = defaultdict(list)
    for folder, split in parts.items():
        folders[split].append(folder)
    for split, same in folders.items():
        if len(same) > 1:
            yield Problem(f"{len(same)} folders for the {split} split", tuple(same))
        found = {record.label for record in records[split]}
        missing = tuple(name for label, name in enumerate(class_names) if label not in found)
        if split != "train" and found and missing:
            yield Problem(f"classes without an image in {same[0]}/", missing)
