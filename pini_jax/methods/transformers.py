"""The two towers, for methods that change the weights of transformers."""

from __future__ import annotations

from pini_jax.core.errors import InputError
from pini_jax.core.shapes import Parameters

TOWERS = ("text", "image")


def check_transformers(theta: Parameters, changes: str) -> None:
    """Raises InputError if a tower is not a transformer; `changes` says which method changes what in it."""
    for tower in TOWERS:
        if "qkv" not in theta[tower].get("blocks", {}):
            raise InputError(f"{changes}, and the {tower} tower is no transformer")
