"""Packages that are not installed, and what stands in their place."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from unittest.mock import MagicMock

# Rooms import them, and what is measured calls nothing of theirs. But a training writes its answers with arro3: by
# its stand-in an empty file.
UNUSED = ("jaxtyping", "tokenizers", "ml_collections", "arro3.core", "arro3.io")
TORCH = ("torch", "transformers", "safetensors", "tokenizers")  # of what is measured beside PyTorch
TRAINING = ("orbax", "PIL", "filelock", "safetensors", "tabulate", "threadpoolctl", "tokenizers", "tqdm")


def missing(names: Sequence[str]) -> list[str]:
    """Those that are not installed, or have a stand-in."""
    absent = {name for name, module in sys.modules.items() if isinstance(module, MagicMock)}
    return [name for name in names if name in absent or importlib.util.find_spec(name.partition(".")[0]) is None]


def demand(names: Sequence[str]) -> None:
    """Raises ModuleNotFoundError where some are missing, with their names."""
    if absent := ", ".join(missing(names)):
        raise ModuleNotFoundError(absent, name=absent)


def stand_in() -> list[str]:
    """Puts something in the place of packages that are imported and not used; the names of those not installed."""
    absent = missing(UNUSED)
    # A class, since settings are asked whether they are one.
    sys.modules.update({name: MagicMock(ConfigDict=type("ConfigDict", (), {})) for name in absent})
    return absent
