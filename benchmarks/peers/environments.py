"""An environment of its own for every peer, made once: what is measured is what its user installs."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
PEERS = {
    "keras_hub": ("keras-hub", "jax", "safetensors"),
    "jimm": ("jax-image-models", "huggingface_hub"),
    "transformers": ("transformers", "torch"),
    "scikit_learn": ("scikit-learn",),
    "autogluon": ("autogluon.multimodal",),
}


class Refused(Exception):
    """A peer that cannot be installed here; the message says why, in one line."""


class Environment(NamedTuple):
    """Where a library is installed.

    Attributes:
        python: its interpreter.
        megabytes: of all that was installed.
        versions: of the packages that were asked for.
    """

    python: str
    megabytes: float
    versions: dict[str, str]


def packages(name: str) -> tuple[str, ...]:
    """What is installed: of this library, which itself is run from the repository, what it needs."""
    if name != "pini_jax":
        return PEERS[name]
    return tuple(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"])


def make(name: str, cache: Path) -> Environment:
    """The environment of a library, in `cache`; a later call finds it there.

    Raises:
        Refused: pip cannot install it.
    """
    wanted = packages(name)
    key = hashlib.sha256(json.dumps([sys.version, wanted]).encode()).hexdigest()[:8]
    folder, done = cache / f"{name}-{key}", cache / f"{name}-{key}.json"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder)
        _install(folder, wanted)
        done.write_text(json.dumps(dict(megabytes=_megabytes(folder), versions=_versions(folder))))
    found = json.loads(done.read_text())
    asked = {_normal(re.match(r"[\w.-]+", package)[0]) for package in wanted}
    versions = {package: version for package, version in found["versions"].items() if _normal(package) in asked}
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    return Environment(str(python), found["megabytes"], versions)


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _install(folder: Path, wanted: Sequence[str]) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "--quiet", *wanted], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(folder)
        raise Refused(f"pip: {done.stderr.strip().splitlines()[-1]}")


def _versions(folder: Path) -> dict[str, str]:
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "list", "--format=json"]
    listed = subprocess.run(pip, check=True, capture_output=True, text=True)
    return {package["name"]: package["version"] for package in json.loads(listed.stdout)}


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6
