"""What all tests share: the CPU, and caches that are not the user's own."""

import logging
import os
from pathlib import Path

import jax

os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent.parent / ".cache")
jax.config.update("jax_platforms", "cpu")

from pini_jax import runtime  # noqa: E402, reads the variable set above

runtime.prepare()
logging.getLogger("pini_jax").propagate = True  # to caplog
