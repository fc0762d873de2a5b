"""Seconds from the start of a process to the end of its first training step: python -m benchmarks.startup.

The released configuration with cached features on a ViT-B/16 of random weights, with 37 classes of 4 images. What
a run does up to then is done in a process of its own: `warm` as any run but the first, `cold` with no compiled
programs in the cache, `first` with no image features either, so that the images of one view are encoded. Files are
in the memory of the system in all of them. Phases are wall clock, the median of a few processes; `weights` is the
part of `shared` (data, weights, texts) that reads the towers; `run` is the selection, the features and the first
state. Below the target is what JAX spent on programs in all phases: tracing and lowering them, and compiling them
or fetching them from the cache. With --save the line of JSON is also kept in results/startup.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks import timing

# What is not of the standard library is imported where it is needed: imports are a part of what is measured.

RESULT = Path(__file__).parent / "results" / "startup.json"
CLASSES, SHOTS, SIDE = 37, 4, 256
TARGETS = {"cold": 15.0, "warm": 6.0}  # seconds, on two CPU cores
REPEATS = {"first": 1, "cold": 3, "warm": 5}
FORGETS = {"first": ("programs", "features"), "cold": ("programs",), "warm": ()}  # of the cache
PHASES = ("imports", "shared", "run", "compile", "step")
WITHIN = ("weights", "trace", "lower", "compile or fetch")
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile or fetch",
}


# ------------------------------------------------------------------------------------------------ the process


class Done(Exception):
    """The first step has been taken."""


def first_step(folder: Path) -> None:
    """What `main` does up to the end of the first step; a line when each phase has ended, then what is within."""
    import jax

    importlib.import_module("pini_jax.main")  # with all that it imports
    from pini_jax.clip import pretrained
    from pini_jax.core import runtime
    from pini_jax.runs import experiment, population

    within = dict.fromkeys(WITHIN, 0.0)

    def say(phase: str) -> None:
        print(phase, flush=True)

    def listen(event: str, seconds: float, **_) -> None:
        if event in EVENTS:
            within[EVENTS[event]] += seconds

    def load(*arguments, original=pretrained.load_clip, **options):
        start = time.perf_counter()
        clip = original(*arguments, **options)
        within["weights"] += time.perf_counter() - start
        return clip

    def share(*arguments, original=experiment.share):
        shared = original(*arguments)
        say("shared")
        return shared

    def compile_group(*arguments, original=experiment.compile_group):
        say("run")
        step, lanes = original(*arguments)
        say("compile")

        def once(*arguments) -> None:
            jax.block_until_ready(step(*arguments))
            raise Done

        return once, lanes

    jax.monitoring.register_event_duration_secs_listener(listen)
    pretrained.load_clip, experiment.share, experiment.compile_group = load, share, compile_group
    runtime.prepare()
    logging.getLogger("pini_jax").setLevel(logging.ERROR)
    say("imports")
    settings = dict(clip=str(folder / "clip"), dataset=f"folder:{folder / 'images'}", shots=SHOTS, views=1)
    bars = contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as workdir, bars, contextlib.suppress(Done):
        population.train_population(population.members(settings), Path(workdir))
    say("step")
    print(json.dumps(within), flush=True)


# ------------------------------------------------------------------------------------------------ its parent


def write_images(folder: Path) -> None:
    """Classes of images whose colours differ, for training and for testing."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    for label in range(CLASSES):
        for split, number in (("train", SHOTS), ("test", 1)):
            place = folder / split / f"class {label:02d}"
            place.mkdir(parents=True)
            for i in range(number):
                coarse = chance.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(coarse).resize((SIDE, SIDE)).save(place / f"{i:02d}.jpg")


def write(folder: Path) -> None:
    """The CLIP and the images; in a process of its own, so that the parent stays small."""
    from benchmarks import inputs, random_clip

    (folder / "clip").mkdir()
    random_clip.write(folder / "clip", inputs.VIT_B_16)
    write_images(folder / "images")


def measure(folder: Path) -> dict[str, float]:
    """Seconds of every phase of one process, of what is within them, and in all."""
    command = [sys.executable, "-m", "benchmarks.startup", "--serve", str(folder)]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    found, start = {}, time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        before = start
        for phase in PHASES:
            line, now = process.stdout.readline().strip(), time.perf_counter()
            if line != phase:
                raise ChildProcessError(f"the process ended before {phase!r}")
            found[phase], before = now - before, now
        found["total"] = before - start
        found |= json.loads(process.stdout.readline())
    return found


def row(folder: Path, kind: str, repeats: int) -> dict:
    """A line of the table."""
    processes = []
    for _ in range(repeats):
        for name in FORGETS[kind]:
            shutil.rmtree(folder / "cache" / "pini_jax" / name, ignore_errors=True)
        processes.append(measure(folder))
    total = timing.summarise([one["total"] for one in processes])
    medians: dict[str, float] = defaultdict(float)
    for name in (*PHASES, *WITHIN):
        medians[name] = statistics.median(one[name] for one in processes)
    return dict(kind=kind, target=TARGETS.get(kind), total=total._asdict(), seconds=medians)


def lines(rows: Sequence[dict]) -> list[list[str]]:
    """A row of the table for every phase, a column for every kind."""
    total = ["**total**", *("{median:.1f} ({lowest:.1f}-{highest:.1f})".format(**row["total"]) for row in rows)]
    target = ["target", *(f"{row['target']:.0f}" if row["target"] else "" for row in rows)]
    phases = [[name, *(f"{row['seconds'][name]:.2f}" for row in rows)] for name in PHASES]
    within = [[f"*{name}*", *(f"{row['seconds'][name]:.2f}" for row in rows)] for name in WITHIN]
    return [*phases, total, target, *within]


def main() -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    # What the processes do.
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.write:
        return write(Path(chosen.write))
    if chosen.serve:
        return first_step(Path(chosen.serve))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "benchmarks.startup", "--write", folder], check=True)
        rows = [row(Path(folder), kind, repeats) for kind, repeats in REPEATS.items()]
    print(timing.table(("seconds", *(row["kind"] for row in rows)), lines(rows)))
    found = timing.machine() | dict(rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("kind",))


if __name__ == "__main__":
    main()
