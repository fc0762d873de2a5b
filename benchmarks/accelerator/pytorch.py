"""What runs PyTorch for `peers` and `image_peers`: `benchmarks.torch_clip`, where packages may be missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from benchmarks import timing
from benchmarks.accelerator import packages

T = TypeVar("T")


def beside(stack: ExitStack, make: Callable[[], T], *arguments: str) -> tuple[T, timing.Worker]:
    """What `make` makes, while a process of PyTorch begins that the stack ends."""
    with ThreadPoolExecutor(1) as pool:
        beginning = pool.submit(timing.Worker, __spec__.name, *arguments)
        beginning.add_done_callback(lambda begun: begun.exception() or stack.enter_context(begun.result()))
        made = make()
    return made, beginning.result()


if __name__ == "__main__":
    packages.stand_in()
    from benchmarks import torch_clip

    torch_clip.main(sys.argv[1:])
