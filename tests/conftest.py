"""What all tests share: the CPU, and caches that are not the user's own."""

import logging
import os
import tempfile
from pathlib import Path

import jax
import pytest

# Features are computed anew in every session; only compiled programs are kept.
CACHE = tempfile.TemporaryDirectory(prefix="pini_jax_tests_")
PROGRAMS = Path(__file__).parent.parent / ".cache" / "programs"
PROGRAMS.mkdir(parents=True, exist_ok=True)
Path(CACHE.name, "pini_jax").mkdir()
Path(CACHE.name, "pini_jax", "programs").symlink_to(PROGRAMS)
os.environ["XDG_CACHE_HOME"] = CACHE.name
jax.config.update("jax_platforms", "cpu")

import shape_checker  # noqa: E402, as below

shape_checker.install()

import tiny_clips  # noqa: E402, as below

from pini_jax.core import runtime  # noqa: E402, reads the variable set above

runtime.prepare()
logging.getLogger("pini_jax").propagate = True  # to caplog


@pytest.fixture(scope="session")
def clip():
    """A tiny random CLIP."""
    return tiny_clips.load()


@pytest.fixture(scope="session")
def prompts():
    """Prompts of unequal length for it."""
    return tiny_clips.make_prompts()


@pytest.fixture(scope="session")
def text():
    """The classes of these prompts."""
    return tiny_clips.make_text()


@pytest.fixture(scope="session")
def injector():
    """The released method on it."""
    return tiny_clips.make_injector()
