"""Files that others wrote: only regular ones are opened, and no more is read than a stated limit."""

from __future__ import annotations

import itertools
import json
import re
import stat
from pathlib import Path
from typing import Any

from pini_jax.core.errors import InputError
from pini_jax.core.wording import plain

JSON = 1 << 22  # bytes of a JSON file: what Python makes of them is thirty times as large
DEPTH = 64  # objects and lists within each other


def check(path: Path, most: int | None = None) -> None:
    """Raises InputError unless what lies there is a regular file, of at most so many bytes.

    A pipe would be waited for without end, and a device such as /dev/zero read without end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file")
    if most is not None and status.st_size > most:
        raise InputError(f"{path} has {status.st_size:,} bytes; of such a file at most {most:,} are read")


def read_json(path: Path, most: int = JSON) -> Any:
    """What a JSON file of at most so many bytes holds.

    Raises:
        InputError: it is no regular file, too large, nested too deeply, or no JSON.
    """
    check(path, most)
    try:
        content = path.read_bytes()
        if (depth := _depth(content)) > DEPTH:
            raise ValueError(f"{depth} objects and lists within each other, at most {DEPTH} are read")
        return json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no valid JSON ({plain(error)})") from None


def _depth(content: bytes) -> int:
    """The most brackets that are open at once."""
    # A quote that is never closed goes to the end: nothing is tried twice.
    unquoted = re.sub(rb'"(?:[^"\\]|\\.?)*"?', b"", content, flags=re.DOTALL)
    brackets = unquoted.translate(None, delete=bytes(set(range(256)) - set(b"[]{}")))
    return max(itertools.accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0)
