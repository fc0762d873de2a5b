"""Work on the host that is done side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")


def side_by_side(function: Callable[..., T], *columns: Iterable[Any]) -> list[T]:
    """`[*map(function, *columns)]`, each row on a thread of its own, as many at a time as there are cores.

    For linear algebra in NumPy, which lets go of the interpreter. Within, BLAS has one thread: its own would share
    every small product and wait for each other at its end, where other work keeps the cores busy for several times
    as long as the product takes. So what comes out does not depend on the number of cores either.
    """
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, *columns))
