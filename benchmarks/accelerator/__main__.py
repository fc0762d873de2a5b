"""What is worth measuring on an accelerator, best first: python -m benchmarks.accelerator --output=DIR.

Every result is a line of JSON in DIR/results.jsonl as soon as it is there, so that a run that is killed keeps what
it has; on an accelerator it ends 7 minutes after its process began, from where `at` counts too. What cannot be
measured here is a line with `left_out`, and why. On a CPU everything is small, which proves the command and says
nothing about speed. Weights are random.

1. `peak`: a square product in each precision, and the bandwidth of memory.
2. `text`: a step on cached features, with operations as `benchmarks.flops` counts them for packed prompts.
3. `images`: the image tower forwards.
4. `lanes`: members of a population side by side; `alone` is the step of one.
5. `training`: a whole run, by its phases; of a shorter one the shares that are not steps, checkpoints apart.
6. `peers`: the step beside the paper's in PyTorch, in turn, where that is installed; losses are side by side.
7. `image_peers`: the image tower beside transformers' in PyTorch, as it is and compiled, in turn.
8. `switches`: what remat, packed rows, flash attention and many steps per call are worth.

All but `training`, `peers` and `image_peers` want no packages but jax, flax, optax and numpy.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import jax

from benchmarks import timing
from benchmarks.accelerator import machine, packages
from benchmarks.accelerator.scale import LARGE, SMALL, Scale
from benchmarks.accelerator.work import Row

LIMIT = 420.0  # seconds of the whole
PHASES = ("peak", "text", "images", "lanes", "training", "peers", "image_peers", "switches")  # modules, in order


def measure(scale: Scale, phases: Sequence[str], write: Callable[[Row], None]) -> None:
    """Writes the rows of the phases in turn; a phase that fails is left out from there on, and the next begins."""
    for phase in phases:
        try:
            # Not before there is something in the place of packages that are not installed.
            module = importlib.import_module(f"benchmarks.accelerator.{phase}")
            for row in module.measure(scale):
                write(dict(phase=phase) | row)
        except ImportError as error:
            write(dict(phase=phase, left_out=f"{error.name or error} is missing"))
        except Exception as error:  # of a device that nobody has seen: what comes after is worth having
            write(dict(phase=phase, left_out=f"{type(error).__name__}: {str(error).splitlines()[0:1]}"))


class Results:
    """A file of lines of JSON, which are printed too, by threads that may end the process."""

    def __init__(self, file: TextIO):
        self._file, self._lock = file, threading.RLock()

    def write(self, row: Row) -> None:
        """As a line, with the process's age in seconds."""
        line = json.dumps(row | dict(at=round(timing.age(), 1)))
        with self._lock:
            print(line, file=self._file, flush=True)
            print(line, flush=True)

    def end(self, limit: float) -> NoReturn:
        """Says that the rest is left out, and ends: the device may be in the middle of anything."""
        with self._lock:
            self.write(dict(phase="end", left_out=f"all that comes after {limit:.0f} seconds"))
            os._exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes DIR/results.jsonl, and prints the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--limit", type=float, help=f"seconds; {LIMIT:.0f} on an accelerator, and none on a CPU")
    chosen = parser.parse_args(arguments)
    on_cpu = jax.default_backend() == "cpu"
    limit = chosen.limit or (None if on_cpu else LIMIT)
    chosen.output.mkdir(parents=True, exist_ok=True)
    with (chosen.output / "results.jsonl").open("w") as file, contextlib.ExitStack() as stack:
        results = Results(file)
        results.write(dict(phase="machine") | machine.describe() | dict(without=packages.stand_in()))
        if limit:
            timer = threading.Timer(max(0.0, limit - timing.age()), results.end, [limit])
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        measure(SMALL if on_cpu else LARGE, chosen.phases, results.write)


if __name__ == "__main__":
    main()
