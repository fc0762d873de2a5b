"""The files of a run's folder: config.json, metrics.jsonl and result.json."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

import pini_jax
from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core.errors import InputError

LOG = logging.getLogger(__name__)
OTHER = "; choose another workdir"
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


def write(path: Path, content: Mapping, indent: int | None = 1) -> None:
    """Writes JSON at once: the file is whole, or not there."""
    _replace(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def _replace(path: Path, text: str) -> None:
    if jax.process_index():
        return  # the first process writes for all
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def read(path: Path, hint: str = "") -> dict:
    """Reads a JSON object.

    Raises:
        InputError: the file holds none; `hint` says what to do.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is no valid JSON ({error}){hint}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object{hint}")
    return content


def keep(path: Path, selection: Mapping) -> None:
    """Writes what a run may see, on one line; a run that goes on must see the same.

    Raises:
        InputError: the file is there, and says something else.
    """
    if path.exists() and read(path, OTHER) != json.loads(json.dumps(selection)):
        raise InputError(f"the data have changed since {path} was written; choose another workdir")
    write(path, selection, indent=None)


def claim(config: Config, workdir: Path) -> None:
    """Makes `workdir` the folder of this config."""
    (workdir / "checkpoints").mkdir(exist_ok=True)
    write(workdir / "config.json", configs.to_dict(config))


def finished(config: Config, workdir: Path) -> dict | None:
    """The result of this config's run in `workdir`; None where it has not ended, or not begun.

    Raises:
        InputError: the folder belongs to another config; the message names what differs.
        OSError: there can be no such folder.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / "config.json"
    if not file.exists():
        return None
    found = read(file, OTHER)
    wanted = json.loads(json.dumps(configs.to_dict(config)))
    if found != wanted:
        differ = "; ".join(_differences(found, wanted))
        raise InputError(f"{workdir} holds a run of another config ({differ}); choose another workdir")
    result = workdir / "result.json"
    if not result.exists():
        return None
    LOG.info("%s is finished: nothing to do", workdir)
    return read(result, OTHER)


def _differences(found: Mapping, wanted: Mapping, prefix: str = "") -> Iterator[str]:
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key} is {json.dumps(a)} there, {json.dumps(b)} here"


class MetricsFile:
    """metrics.jsonl, cut back to the step that training goes on from."""

    def __init__(self, path: Path, keep_until: int):
        _replace(path, "".join(line + "\n" for line in _lines(path) if json.loads(line)["step"] <= keep_until))
        self._file = open(os.devnull if jax.process_index() else path, "a")  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def write(self, **values: float) -> None:
        """Adds a line."""
        self._file.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        """Puts all lines on the disk, so that no checkpoint is ahead of them."""
        self._file.flush()


def _lines(path: Path) -> Iterator[str]:
    # What follows the last newline was cut off by a kill.
    for line in path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []:
        with contextlib.suppress(ValueError):  # what a power cut left of a line
            json.loads(line)
            yield line


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
    """What the run computed on, such as `8 x NVIDIA H100` or `1 x cpu (2 cores)`."""
    kind = jax.devices()[0].device_kind
    cores = f" ({os.cpu_count()} cores)" if jax.default_backend() == "cpu" else ""
    return f"{jax.device_count()} x {kind}{cores}"


def versions() -> dict[str, str]:
    """Python's version and those of the packages that shape the numbers."""
    found = {"pini_jax": pini_jax.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
