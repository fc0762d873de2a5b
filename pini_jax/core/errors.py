"""The one error that is the user's to mend, and its hints."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, and how to correct it.

    Commands print it as one line, without a traceback, and exit with status 1.
    """


class UsageError(InputError):
    """A command was typed wrong: the exit status is 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where something known is close, else the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def last_line(error: Exception) -> str:
    """The last line of a library's error, which holds its cause, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][-300:]
