"""What messages say of others' words, on one line, without control characters and cut; and of a time."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

MOST = 10  # entries of a list
LETTERS = 200  # of one of them

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LETTERS
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = MOST


def quoted(value: object) -> str:
    """repr(value), cut to a readable length."""
    return _REPR.repr(value)


def plain(text: object) -> str:
    """str(text) without unprintable characters, cut to a readable length."""
    start = str(text)[: LETTERS + 1]
    return printable(start[:LETTERS]) + "…" * (len(start) > LETTERS)


def printable(text: str) -> str:
    """The text on one line, with blanks for unprintable characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def listed(entries: Iterable[str], separator: str = ", ") -> str:
    """The first ten entries, and how many more there are."""
    texts = list(entries)
    more = [f"and {len(texts) - MOST} more"] if len(texts) > MOST else []
    return separator.join([*map(plain, texts[:MOST]), *more])


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min` or `2 d 5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"


def is_text(name: str) -> bool:
    """Whether a name can be written as text: it has no stand-ins for bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
