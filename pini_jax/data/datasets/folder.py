"""A folder of class folders.

    PATH/CLASS/IMAGE.jpg                                        split by seed, as `datasets.splits` says
    PATH/train/CLASS/IMAGE.jpg, PATH/val/..., PATH/test/...     val or test may be missing; case does not matter

`pini_jax.data.datasets.split_folders` says what else is read so, and what is refused. Images may lie in folders
within their class's folder. Hidden files, those of the system and files that are no images are ignored.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pini_jax.core.errors import InputError
from pini_jax.core.wording import plain
from pini_jax.data.datasets import findings, formats, split_folders, splits
from pini_jax.data.datasets.findings import Findings, Problem
from pini_jax.data.datasets.records import Record
from pini_jax.data.datasets.split_folders import FolderLayout, below
from pini_jax.data.datasets.tree import Tree, scan

TREE = "{0}/CLASS/IMAGE.jpg, or {0}/train/CLASS/IMAGE.jpg with {0}/test/ and perhaps {0}/val/ beside it"
LOG = logging.getLogger(__name__)


def find_folder(path: Path, seed: int) -> Findings:
    """The images under `path`, sorted by their ids; class names are the names of the folders, sorted.

    Problems that the user can correct are returned in the findings.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if not os.path.isdir(path):
        what = "is no folder" if os.path.exists(path) else "does not exist"
        raise InputError(f"{path} {what}; expected {TREE.format(path)}")
    tree = scan(path)
    if not tree.images:
        unread = f" that can be read ({'; '.join(formats.counted(tree.left_out))})" if tree.left_out else ""
        raise InputError(f"{path} holds no image{unread}; expected {TREE.format(path)}")
    layout = split_folders.find_splits(tree, path.resolve().name)
    _log(path, layout)
    classes = sorted({place[1] for folder in tree.folders if (place := _place(f"{folder}/", layout))})
    labels = {name: label for label, name in enumerate(classes)}
    records: dict[str, list[Record]] = {split: [] for split in layout.places.values()}
    stray = []
    for id in tree.images:
        if place := _place(id, layout):
            records[place[0]].append(Record(id, path / id, labels[place[1]]))
        else:
            stray.append(id)
    problems = [
        *_tree_problems(tree, layout, stray),
        *layout.problems,
        *_split_folder_problems(layout, records, classes),
    ]
    dataset = splits.complete(str(path), classes, records, seed)
    notes = (*_notes_of_tree(tree), *layout.notes)
    return findings.inspect(dataset, records if layout.named else {}, problems, tree.ignored, notes)


def _log(path: Path, layout: FolderLayout) -> None:
    """Says where the classes lie, if that is not where they should."""
    if set(layout.places) != {""} and any(folder.lower() not in splits.SPLITS for folder in layout.places):
        places = layout.places.items()
        read = ", ".join(f"{folder}/ ({split})" if layout.named else f"{folder}/" for folder, split in places)
        LOG.info("%s: its classes are the folders in %s", path, plain(read))


def _place(id: str, layout: FolderLayout) -> tuple[str, str] | None:
    """Split and class of an image, if it lies in a class folder."""
    for folder, split in layout.places.items():
        start = below(folder, "")
        if id.startswith(start):
            name, inside, _ = id[len(start) :].partition("/")
            return (split, name) if inside else None
    return None


def _tree_problems(tree: Tree, layout: FolderLayout, stray: list[str]) -> Iterator[Problem]:
    if stray:
        folders = ", ".join(f"{folder}/" for folder in layout.places if folder)
        yield Problem(f"images outside of a class folder{f' within {folders}' if folders else ''}", tuple(stray))
    if tree.broken:
        yield Problem("images that are missing (broken links)", tuple(tree.broken))
    if tree.garbled:
        yield Problem("names that are not UTF-8", tuple(tree.garbled))


def _notes_of_tree(tree: Tree) -> Iterator[Problem]:
    if tree.left_out:
        yield Problem(f"{len(tree.left_out)} pictures are left out", formats.counted(tree.left_out))
    if tree.hidden:
        yield Problem("hidden pictures, and folders with pictures, are left out", tuple(tree.hidden))
    if tree.irregular:
        yield Problem("what is called like a picture, but is no regular file, is left out", tuple(tree.irregular))


def _split_folder_problems(
    layout: FolderLayout, records: dict[str, list[Record]], class_names: list[str]
) -> Iterator[Problem]:
    if not layout.named:
        return
    folders: dict[str, list[str]] = defaultdict(list)
    for folder, split in layout.places.items():
        folders[split].append(folder)
    for split, same in folders.items():
        if len(same) > 1:
            yield Problem(f"{len(same)} folders for the {split} split", tuple(same))
        present = {record.label for record in records[split]}
        missing = tuple(name for label, name in enumerate(class_names) if label not in present)
        if split != "train" and present and missing:
            yield Problem(f"classes without an image in {same[0]}/", missing)
