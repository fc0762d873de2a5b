"""Files of the cache: whole or not there, whoever else writes them at the same time."""

from __future__ import annotations

import logging
from pathlib import Path

from pini_jax.core.paths import beside

LOG = logging.getLogger(__name__)


def keep(path: Path, content: bytes) -> bool:
    """Writes a file of the cache. Returns whether that succeeded; if not, a warning says why, and the run
    continues.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        LOG.warning("%s could not be cached (%s); the run goes on without", path.name, error)
        return False
    return True
