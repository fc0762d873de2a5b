"""Files by one listing of each folder: a look at every file on its own is slow on a network's disks."""

from __future__ import annotations

import os
import unicodedata
from typing import NamedTuple

LONGEST = 4096  # letters of a path: no system takes more


class Entries(NamedTuple):
    """The entries of a folder.

    Attributes:
        regular: name -> whether it is a regular file; not a folder, a pipe or a device. None for a broken link.
        forms: names with their accents composed -> as they are.
    """

    regular: dict[str, bool | None]
    forms: dict[str, str]


class Disk:
    """The folders that have been listed."""

    def __init__(self) -> None:
        self._folders: dict[str, Entries] = {}

    def find(self, path: str) -> str:
        """An absolute path as it lies on the disk, where `é` may be two characters and one in a table."""
        folder, name = os.path.split(path)
        if path.isascii() or len(path) > LONGEST or name in self._list(folder).regular:
            return path
        place = os.sep
        for part in path.split(os.sep)[1:]:
            inside = self._list(place)
            same = part if part in inside.regular else inside.forms.get(_composed(part), part)
            place = os.path.join(place, same)
        return place

    def is_regular(self, path: str) -> bool | None:
        """Whether a file is a regular one; None where there is none."""
        folder, name = os.path.split(path)
        return self._list(folder).regular.get(name)

    def _list(self, folder: str) -> Entries:
        if folder not in self._folders:
            try:
                with os.scandir(folder) as entries:
                    regular = {entry.name: _is_regular(entry) for entry in entries}
            except (OSError, ValueError):  # a path may hold a NUL
                regular = {}
            forms = {_composed(name): name for name in regular if not name.isascii()}
            self._folders[folder] = Entries(regular, forms)
        return self._folders[folder]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_regular(entry: os.DirEntry[str]) -> bool | None:
    try:
        return entry.is_file() or (False if not entry.is_symlink() or os.path.exists(entry.path) else None)
    except OSError:  # links in a circle
        return None
