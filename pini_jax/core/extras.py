"""Packages that only some runs need: each belongs to an extra of the installation, imported on first use."""

from __future__ import annotations

import importlib
from types import ModuleType

from pini_jax.core.errors import InputError, last_line


def require(module: str, extra: str) -> ModuleType:
    """The module, from the packages of `pini_jax[extra]`.

    Raises:
        InputError: they are not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module.partition('.')[0]} cannot be imported ({last_line(error)}): pip install 'pini_jax[{extra}]'"
        ) from None
