"""Packages that are not installed, and what stands in their place."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from unittest.mock import MagicMock

UNUSED = ("jaxtyping", "tokenizers")  # rooms import them, and what is measured calls nothing of theirs
TORCH = ("torch", "transformers", "safetensors", *UNUSED)  # of what is measured beside PyTorch


def missing(names: Sequence[str]) -> list[str]:
    """Those that are not installed, or have a stand-in."""
    absent = {name for name, module in sys.modules.items() if isinstance(module, MagicMock)}
    return [name for name in names if name in absent or importlib.util.find_spec(name) is None]


def stand_in() -> list[str]:
    """Puts something in the place of packages that are imported and not used; the names of those not installed."""
    absent = missing(UNUSED)
    sys.modules.update({name: MagicMock() for name in absent})
    return absent
