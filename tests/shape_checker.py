"""Checks the package's annotations while the tests run: shapes by jaxtyping, all else by beartype.

An array of the host may stand for one of a device, and a whole number for a float.
"""

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install():
    """Before the package is imported."""
    jaxtyping.Array = jax.Array | np.ndarray
    jaxtyping.install_import_hook("pini_jax", "shape_checker.check")
