"""Modules of the user's that a config names: loaded once, and known by the hash of their source."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from pini_jax.core.errors import InputError, last_line

GROUP = "pini_jax.plugins"  # of entry points
LOG = logging.getLogger(__name__)


def load_plugins(names: Sequence[str]) -> dict[str, str]:
    """Imports plug-ins; {name: SHA-256 of its source}.

    Args:
        names: each the path of a file `NAME.py`, an entry point of the group `pini_jax.plugins`, or a module.

    Raises:
        InputError: there is none of this name, or importing it fails.
    """
    return {name: _hash(_load(name)) for name in names}


def warn_of_changes(recorded: Mapping[str, str], since: str) -> None:
    """Names the plug-ins whose source differs from the recorded one."""
    for name, now in load_plugins([*recorded]).items():
        if now != recorded[name]:
            LOG.warning("the plug-in %s has changed since %s", name, since)


def _load(name: str) -> ModuleType:
    try:
        if name.endswith(".py"):
            return _from_file(Path(name).expanduser().resolve())
        entry_points = importlib.metadata.entry_points(group=GROUP, name=name)
        return importlib.import_module(next(iter(entry_points)).module if entry_points else name)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"plugins: there is no file {name}") from None
    except ModuleNotFoundError as error:
        raise InputError(f"plugins: {name!r} is no file, no entry point and no module ({error})") from None
    except Exception as error:  # a module does whatever it likes when it is imported
        raise InputError(
            f"plugins: {name} cannot be imported ({type(error).__name__}: {last_line(error)})"
        ) from error


def _from_file(path: Path) -> ModuleType:
    """The module of a file, once for every file."""
    name = f"pini_jax_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _hash(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    if not file:
        raise InputError(f"plugins: {module.__name__} is no file of Python, whose source could be recorded")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
