"""The letters of shapes, and the types of what has no shape of its own: one legend for the whole package.

| letter  | what it counts                                                                     |
|---------|------------------------------------------------------------------------------------|
| b       | images of a batch or of a split                                                    |
| c       | classes                                                                            |
| e       | channels of the joint embedding                                                    |
| d       | channels of a tower: its width                                                     |
| k       | draws of the texts' noise                                                          |
| n       | draws of the images' noise for each of the k; patches of an image in a tower       |
| h, w    | height and width of an image; h: heads of an attention                             |
| y, x, f | rows, columns and channels of a convolution's map                                  |
| a, p, q | start tokens of a prompt; the tokens after them that all classes share; both       |
| q, j    | queries of an attention; its keys                                                  |
| r, s    | rows of packed suffixes, and their tokens; r: hidden channels of a generator       |
| m       | images of the selection; directions of a factor; places that attend                |
| v, i    | cached views of an image; rows of the selection: every view of every image         |
| l, t    | layers, or lanes of runs; query, key and value, or steps of a call                 |
| z       | channels of a head                                                                 |

`*x` stands for any number of axes. jaxtyping checks annotations while the tests run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Array

Parameters = Mapping[str, Any]  # a tree of arrays by names
Numbers = Array | np.ndarray  # on a device, or of the host
T = TypeVar("T")


def present(x: T | None) -> T:
    """A value that the caller knows to be present, with its type narrowed."""
    if x is None:
        raise ValueError("this is wanted, and was not given")
    return x
