"""Files of the cache: whole or not there, whoever else writes them at the same time."""

from __future__ import annotations

import logging
from pathlib import Path

from pini_jax.core.paths import beside

LOG = logging.getLogger(__name__)


def keep(path: Path, content: bytes) -> bool:
    """Whether a file could be written; if not, a line says why, and the run goes on without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        LOG.warning("%s could not be cached (%s); the run goes on without", path.name, error)
        return False
    return True
