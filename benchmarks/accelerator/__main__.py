"""What is worth measuring on an accelerator, best first: python -m benchmarks.accelerator --output=DIR.

Every result is a line of JSON in DIR/results.jsonl as soon as it is there, so that a run that is killed keeps what
it has; a further run in the same DIR adds its lines behind its own `machine`, and finds compiled programs in
DIR/programs. On an accelerator it ends 7 minutes after its process began, from where `at` counts too; every phase
has a share of that, beyond which it begins nothing. What cannot be measured here is a line with `left_out`, and
why. On a CPU everything is small, which proves the command and says nothing about speed. Weights are random.

1. `peak`: a square product in each precision, and the bandwidth of memory.
2. `text`: a step on cached features, with operations as `benchmarks.flops` counts them for packed prompts.
3. `images`: the image tower forwards.
4. `lanes`: members of a population side by side; `alone` is the step of one.
5. `training`: a whole run, by its phases; of a shorter one the shares that are not steps, checkpoints apart; and a
   population together and one after another.
6. `peers`: the step beside the paper's in PyTorch, in turn, where that is installed; losses are side by side.
7. `image_peers`: the image tower beside transformers' in PyTorch, as it is and compiled, in turn.
8. `switches`: what remat, packed rows, flash attention and many steps per call are worth.

All but `training`, `peers` and `image_peers` want no packages but jax, flax, optax and numpy.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import math
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from benchmarks import timing
from benchmarks.accelerator import machine, packages, tasks
from benchmarks.accelerator.results import Results, scratch
from benchmarks.accelerator.scale import LARGE, SMALL, Scale
from benchmarks.accelerator.work import Row

LIMIT = 420.0  # seconds of the whole
# Modules, in order, and of 100 parts of the time as many as each may have; what it does not take is the others'.
PHASES = dict(peak=10, text=24, images=9, lanes=18, training=16, peers=11, image_peers=6, switches=6)


def measure(scale: Scale, phases: Sequence[str], limit: float, write: Callable[[Row], None]) -> None:
    """Writes the rows of the phases in turn; what fails is left out, and the next begins."""
    parts = list(itertools.accumulate(PHASES[phase] for phase in phases))
    for phase, part in zip(phases, parts, strict=True):

        def put(row: Row, phase: str = phase) -> None:
            write(dict(phase=phase) | row)

        try:
            # Not before there is something in the place of packages that are not installed.
            module = importlib.import_module(f"benchmarks.accelerator.{phase}")
            tasks.run(module.tasks(scale), limit * part / parts[-1], put)
        except Exception as error:
            put(tasks.failure(error))


def keep_programs(folder: Path) -> None:
    """All that are compiled, unless the process keeps them elsewhere."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Adds to DIR/results.jsonl, and prints the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--limit", type=float, help=f"seconds; {LIMIT:.0f} on an accelerator, and none on a CPU")
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((chosen.output / "results.jsonl").open("a"))
        results = Results(file, stack.enter_context(scratch()))
        limit = chosen.limit or LIMIT
        timer = threading.Timer(max(0.0, limit - timing.age()), results.end, [limit])
        timer.daemon = True
        stack.callback(timer.cancel)
        timer.start()  # before the device is asked for anything
        if machine.fell_back():
            sys.exit(
                "error: there is a GPU, and JAX found none: pip install 'jax[cuda13]', or set JAX_PLATFORMS=cpu"
            )
        on_cpu = jax.default_backend() == "cpu"
        if on_cpu and not chosen.limit:
            timer.cancel()
            limit = math.inf
        keep_programs(chosen.output / "programs")
        without = packages.stand_in()
        results.write(dict(phase="machine") | machine.describe() | dict(without=without))
        measure(SMALL if on_cpu else LARGE, chosen.phases, limit, results.write)


if __name__ == "__main__":
    main()
