"""Where files lie."""

from __future__ import annotations

import os
from pathlib import Path

ASSETS = Path(__file__).parent.parent / "assets"  # what ships in the package


def cache_folder() -> Path:
    """`pini_jax` under $XDG_CACHE_HOME, or under ~/.cache: compiled programs and image features."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "pini_jax"
