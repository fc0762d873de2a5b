"""What others wrote, in messages: on one line, without control characters, and cut where it gets long."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

MOST = 10  # entries of a list
LETTERS = 200  # of one of them

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LETTERS
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = MOST


def quoted(value: object) -> str:
    """repr(value), cut."""
    return _REPR.repr(value)


def plain(text: object) -> str:
    """str(text) without what does not print, cut."""
    start = str(text)[: LETTERS + 1]
    letters = "".join(letter if letter.isprintable() else " " for letter in start[:LETTERS])
    return " ".join(letters.split()) + "…" * (len(start) > LETTERS)


def listed(entries: Iterable[str], separator: str = ", ") -> str:
    """The first ten entries, and how many more there are."""
    texts = list(entries)
    more = [f"and {len(texts) - MOST} more"] if len(texts) > MOST else []
    return separator.join([*map(plain, texts[:MOST]), *more])
