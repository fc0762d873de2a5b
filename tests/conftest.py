"""What all tests share: the CPU, and caches that are not the user's own."""

import os
from pathlib import Path

import jax

os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent.parent / ".cache")
jax.config.update("jax_platforms", "cpu")

from pini_jax import train  # noqa: E402, reads the variable set above

train.prepare()
