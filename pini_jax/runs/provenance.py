"""Where a result comes from: the command, the code, the packages, the device, the time."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import pini_jax
from pini_jax import plugins

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


class Clock:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times its block."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def device() -> str:
    """The device the run computed on, such as `8 x NVIDIA H100` or `1 x cpu (2 cores)`."""
    kind = jax.devices()[0].device_kind
    cores = f" ({os.cpu_count()} cores)" if jax.default_backend() == "cpu" else ""
    return f"{jax.device_count()} x {kind}{cores}"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect the numbers."""
    known = {"pini_jax": pini_jax.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known[package] = importlib.metadata.version(package)
    return known


def describe_origin(plugin_names: Sequence[str]) -> dict[str, Any]:
    """The content of provenance.json: everything needed to repeat the run.

    `commit` is that of the checkout that the package runs from, with a `+` where files differ from it; empty for
    an installed package. `packages` are all that are installed, as a lock file has them.
    """
    return {
        "command": ["python", *sys.orig_argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "pini_jax": pini_jax.__version__,
        "commit": _commit(Path(pini_jax.__file__).parent),
        "packages": _packages(),
        "plugins": plugins.load_plugins(plugin_names),
    }


# Both are asked once for all members of a population.
@functools.cache
def _packages() -> list[str]:
    """Those that are installed."""
    known = [found.metadata for found in importlib.metadata.distributions()]
    return sorted({f"{metadata['Name']}=={metadata['Version']}" for metadata in known})


@functools.cache
def _commit(folder: Path) -> str:
    """The commit that a folder is of."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", "__init__.py"):
            return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        pass  # no checkout, or no git
    return ""
