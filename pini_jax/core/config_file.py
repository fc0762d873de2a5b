"""Config files: those that ship, by name, and anyone's, by path; and the flag that reads them."""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import sys
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import ml_collections
from absl import flags
from ml_collections import config_flags

from pini_jax.core.errors import InputError, did_you_mean


def define_flag(values: flags.FlagValues) -> None:
    """Defines --config, and --config.KEY for all that the config holds."""
    names = ", ".join(shipped())
    text = f"A config that ships ({names}) or a file, perhaps with :KEY=VALUE,...; --config.KEY=VALUE sets more."
    config_flags.DEFINE_config_file("config", None, text, flag_values=values)
    values["config"].parser = _Parser()


class _Parser(flags.ArgumentParser):  # type: ignore[type-arg]  # generic for mypy alone
    """In place of config_flags' own, which knows paths alone, and none with a Windows drive."""

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        config = load_config(argument)
        config.lock()  # against unknown keys
        return config


def load_config(source: str) -> ml_collections.ConfigDict:
    """The config of `NAME`, which ships, or of a file; `NAME:key=value,...` hands it arguments.

    What a function `sweep()` of the file yields, {key: value, ...} for every run, becomes its `population`.

    Raises:
        InputError: there is no such file, or it fails, or makes no config; the message has the line.
    """
    drive, rest = os.path.splitdrive(source)
    name, colon, arguments = rest.partition(":")
    path = find_config(drive + name)
    try:
        module = _run(path)
        config = module.get_config(*[arguments] if colon else [])
        if hasattr(module, "sweep"):
            config.population = tuple(module.sweep())
    except InputError:
        raise
    except Exception as error:  # whatever such a program may raise
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f":{frame.lineno}" for frame in reversed(frames) if frame.filename == str(path)), "")
        raise InputError(f"{path}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"{path}: get_config() must return a ConfigDict: pini_jax.config.default(), changed")
    return config


def find_config(name: str) -> Path:
    """The file of this path, or else the config of this name that ships.

    Raises:
        InputError: there is neither.
    """
    path, known = Path(name).expanduser(), shipped()
    if path.is_file():
        return path
    if name in known:
        return known[name]
    hint = f"; the one that ships is named {path.stem}" if path.stem in known else did_you_mean(path.stem, known)
    raise InputError(f"no config file {name!r}{hint}")


def shipped() -> dict[str, Path]:
    """The files of `pini_jax.configs`, by name."""
    folder = Path(str(importlib.resources.files("pini_jax.configs")))
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def _run(path: Path) -> ModuleType:
    name = f"config_file_{path.stem}"
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
