"""What lies under a folder: pictures, and all that is left out of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pini_jax.core.errors import InputError
from pini_jax.core.wording import is_text, plain
from pini_jax.data.datasets import formats

LINKED = 100  # how often links may lead to one folder: each of a chain of them could double what is read
# What disks, file systems, network drives and programs make beside the user's own folders, in lower case.
SYSTEM = set(
    """
    lost+found/System Volume Information/$RECYCLE.BIN/.Trash/.Trashes/.recycle
    RECYCLER/~snapshot/_vti_cnf/WPSystem/_gsdata_
    @eaDir/@tmp/@sharebin/@Recycle/@Recently-Snapshot/@__thumb/.@__thumb/#recycle/#snapshot/.snapshot/.snapshots/.zfs
    __MACOSX/.DS_Store/.AppleDouble/.AppleDesktop/.Spotlight-V100/.fseventsd/.DocumentRevisions-V100
    .TemporaryItems/Temporary Items/Network Trash Folder/Thumbs.db/desktop.ini
    .thumbnails/.thumb/.tmb/.xvpics/.picasaoriginals/.cache/.sync/.stfolder/.stversions/.dropbox.cache
    .git/.svn/.hg/.dvc/.ipynb_checkpoints/__pycache__/.venv/.idea/.vscode
    """.lower()
    .replace("\n    ", "/")
    .split("/")
) - {""}
_FAMILIES = re.compile(
    r"\.trash-\d+|found\.\d+|\._.*|\.nfs[0-9a-f]+|@syno.*|@app(conf|data|home|share|store|temp)"
)


class Tree(NamedTuple):
    """Relative paths with forward slashes.

    Attributes:
        images: files with the ending of a picture that can be read.
        folders: those that are searched.
        ignored: what is no picture, what is hidden or a system's, and links to a folder that they lie in.
        left_out: files with the ending of a picture that cannot be read.
        hidden: pictures and folders with pictures whose names begin with a dot.
        irregular: pipes, devices and the like with the ending of a picture.
        broken: links to pictures that lead nowhere.
        garbled: names that are not UTF-8.
    """

    images: list[str]
    folders: list[str]
    ignored: list[str]
    left_out: list[str]
    hidden: list[str]
    irregular: list[str]
    broken: list[str]
    garbled: list[str]


def scan(path: str | os.PathLike[str]) -> Tree:
    """Everything under a folder, sorted; links are followed.

    Raises:
        InputError: a folder cannot be read, or links lead to it again and again.
    """
    tree = Tree([], [], [], [], [], [], [], [])
    linked: Counter[str] = Counter()
    waiting: list[tuple[str, str, tuple[str, ...]]] = [(os.fspath(path), "", (os.path.realpath(path),))]
    while waiting:  # no recursion: folders may lie deeper than Python's stack is
        folder, prefix, above = waiting.pop()
        for entry in _entries(folder):
            id = prefix + entry.name
            if not is_text(entry.name):
                tree.garbled.append(id.encode("utf-8", "backslashreplace").decode())
            elif is_system(entry.name):
                tree.ignored.append(id)
            elif entry.name.startswith("."):
                (tree.hidden if _holds_picture(entry) else tree.ignored).append(id)
            elif not _asked(entry.is_dir):
                _sort_file(tree, entry, id)
            elif (real := _real(entry, above[-1])) in above:
                tree.ignored.append(id)
            else:
                linked[real] += entry.is_symlink()
                if linked[real] > LINKED:
                    raise InputError(f"links lead to {plain(entry.path)} more than {LINKED} times: unravel them")
                tree.folders.append(id)
                waiting.append((entry.path, id + "/", (*above, real)))
    return Tree(*map(sorted, tree))


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is a system's, wherever it lies."""
    return name.lower() in SYSTEM or _FAMILIES.fullmatch(name.lower()) is not None


def is_picture(path: str) -> bool:
    """Whether a relative path is that of a picture that can be read, and no part of it is hidden or a system's."""
    hidden = any(name.startswith(".") or is_system(name) for name in path.split("/"))
    return formats.suffix(path) in formats.SUFFIXES and not hidden


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"the folder {plain(folder)} cannot be read ({error.strerror})") from None


def _real(entry: os.DirEntry[str], parent: str) -> str:
    return os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(parent, entry.name)


def _asked(question: Callable[[], bool]) -> bool:
    """What an entry says of itself; a link in a circle is neither file nor folder."""
    try:
        return question()
    except OSError:
        return False


def _sort_file(tree: Tree, entry: os.DirEntry[str], id: str) -> None:
    suffix = formats.suffix(entry.name)
    if suffix in formats.LEFT_OUT:
        tree.left_out.append(id)
    elif suffix not in formats.SUFFIXES:
        tree.ignored.append(id)
    elif _asked(entry.is_file):
        tree.images.append(id)
    else:
        (tree.broken if entry.is_symlink() and not os.path.exists(entry.path) else tree.irregular).append(id)


def _holds_picture(entry: os.DirEntry[str]) -> bool:
    if not _asked(entry.is_dir):
        return _any_picture([entry.name])
    return any(_any_picture(files) for _, _, files in os.walk(entry.path))


def _any_picture(files: Iterable[str]) -> bool:
    return any(formats.suffix(file) in formats.PICTURES for file in files)
