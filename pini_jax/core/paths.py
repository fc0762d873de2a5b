"""Where files lie."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pini_jax.core.errors import InputError

ASSETS = Path(__file__).parent.parent / "assets"  # what ships in the package


def cache_folder() -> Path:
    """`pini_jax` under $XDG_CACHE_HOME, or under ~/.cache: compiled programs and image features."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "pini_jax"


def refuse_scheme(setting: str, value: str) -> None:
    """Refuses a path of another store, as in `gs://bucket/run`, which Python would take for a folder `gs:` here.

    Args:
        setting: what the path was given for: the name of a flag or a key of the config.
        value: as the user wrote it; what stands before the path, as in `folder:PATH`, is passed over.

    Raises:
        InputError: somewhere in it is a `scheme://`.
    """
    if found := re.search(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
        remedy = "leave the file:// out" if found[0].lower() == "file://" else "mount it, or copy it to a disk"
        raise InputError(f"{setting}={value!r}: only paths of this machine are read and written; {remedy}")
