"""Where files lie, and how small ones are written and read: whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from pini_jax.core import bucket, files
from pini_jax.core.errors import InputError

RESULT = "result.json"  # of a run, written last: one that has it is finished
CHECKPOINTS = "checkpoints"  # of a run: of use to who goes on, and to no reader
OWN = 1 << 28  # bytes of a file that a run has written
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ONE_SLASH = re.compile(r"(?:^|:)(gs|s3|hdfs|https?|file):/(?!/)")  # as a path makes of two
ASSETS = Path(__file__).parent.parent / "assets"  # what ships in the package


def cache_folder() -> Path:
    """`pini_jax` under $XDG_CACHE_HOME, or under ~/.cache: compiled programs and image features."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "pini_jax"


def check_address(setting: str, value: str) -> None:
    """Refuses what is neither a path of this machine nor in a bucket of a known kind.

    Args:
        setting: what it was given for: the name of a flag or a key of the config.
        value: as the user wrote it; what stands before the address, as in `folder:PATH`, is passed over.

    Raises:
        InputError: it is another `scheme://`, or names no bucket, or has lost a slash.
    """
    if lost := _ONE_SLASH.search(value):
        raise InputError(f"{setting}={value!r} has one slash behind {lost[1]}: where an address has two")
    if not (found := SCHEME.search(value)):
        return
    if found[1] not in bucket.PACKAGES:
        remedy = "leave the file:// out" if found[1].lower() == "file" else "copy it to one of these"
        raise InputError(f"{setting}={value!r}: only paths of this machine, gs:// and s3:// are known; {remedy}")
    if value[found.end() :].strip("/") == "" or value[found.end()] == "/":
        raise InputError(f"{setting}={value!r} names no bucket: it must be such as {found[0]}bucket/folder")


def refuse_bucket(setting: str, value: str) -> None:
    """Refuses all but a path of this machine, where nothing else is of use.

    Raises:
        InputError: it is an address `scheme://`.
    """
    check_address(setting, value)
    if SCHEME.search(value):
        raise InputError(f"{setting}={value!r} must be a path of this machine")


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write, which takes its place when the block has ended, and goes where it fails.

    Its name is its own: other threads, processes and machines may write the same file.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file at once: it is whole, or as it was. The first process writes for all."""
    if jax.process_index():
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
    """Writes a JSON object at once."""
    write_file(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def read_object(path: Path, hint: str = "") -> dict[str, Any]:
    """Reads a JSON object that a run has written.

    Raises:
        InputError: the file holds none; `hint` says what to do.
    """
    try:
        content = files.read_json(path, OWN)
    except InputError as error:
        raise InputError(f"{error}{hint}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object{hint}")
    return content
