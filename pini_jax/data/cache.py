"""Files of the cache: whole or not there, whoever else writes them at the same time."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from pathlib import Path

LOG = logging.getLogger(__name__)


def keep(path: Path, content: bytes) -> bool:
    """Writes a file of the cache. Returns whether that succeeded; if not, a warning says why, and the run
    continues.
    """
    # A name of its own for every writer: other threads, processes and machines may write the same file.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        LOG.warning("%s could not be cached (%s); the run goes on without", path.name, error)
        return False
    return True
