"""Checks the shapes and kinds of arrays in the package's annotations while the tests run.

An array of the host may stand for one of a device. What is no array is the business of mypy.
"""

import re

import jax
import jaxtyping
import numpy as np
from beartype import beartype

ARRAY = re.compile(r"\b(Float|Int|Bool|UInt8|Key)\[")


def check(function):
    """The function with its arrays checked."""
    if isinstance(function, type):
        return function
    kept = {name: hint for name, hint in function.__annotations__.items() if ARRAY.search(str(hint))}
    function.__annotations__ = kept
    return beartype(function)


def install():
    """Before the package is imported."""
    jaxtyping.Array = jax.Array | np.ndarray
    jaxtyping.install_import_hook("pini_jax", "shape_checker.check")
