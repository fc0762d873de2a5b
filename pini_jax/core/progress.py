"""Bars of progress, which a program that uses the package may hide."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

_hidden = ContextVar("hidden", default=False)


@contextlib.contextmanager
def hidden(hide: bool = True) -> Iterator[None]:
    """No bars within the block."""
    token = _hidden.set(hide)
    try:
        yield
    finally:
        _hidden.reset(token)


def is_hidden() -> bool:
    """Whether nothing is to be shown."""
    return _hidden.get()


def bar(disable: bool = False, **settings: Any) -> tqdm[Any]:
    """A bar of tqdm's; nothing is shown where `disable` or `hidden` says so."""
    return tqdm(dynamic_ncols=True, disable=disable or is_hidden(), **settings)
