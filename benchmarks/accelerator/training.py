"""A whole training, as a command has it, and how much of its time is not its steps; and several side by side.

Where arro3 has a stand-in, predictions.parquet is empty.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import parts, population, share
from benchmarks.accelerator import packages
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.tasks import Task
from benchmarks.accelerator.work import Row
from pini_jax.config import Config
from pini_jax.runs import experiment
from pini_jax.task import run
from pini_jax.train import loop

NEVER = 10**6  # lines of metrics.jsonl before there is another checkpoint


def tasks(scale: Scale) -> Iterator[Task]:
    """One, with its phases and shares; and members of a population together and one after another."""
    packages.demand(packages.TRAINING)
    clip, classes, shots, epochs, fewer = scale.training
    case = population.Case("training", clip, classes, shots, {"seed": (1,)}, 0, epochs, epochs)
    yield Task(dict(classes=classes, shots=shots), functools.partial(measure, case, fewer))
    clip, classes, shots, epochs, members = scale.together
    seeds = tuple(range(1, members + 1))
    case = population.Case("together", clip, classes, shots, {"seed": seeds}, 0, epochs, epochs)
    yield Task(dict(classes=classes, shots=shots, members=members), functools.partial(measure_together, case))


def measure(case: population.Case, fewer: int) -> Iterator[Row]:
    """Seconds from start to end, and of the phases as result.json has them; then the shares of a shorter one."""
    with tempfile.TemporaryDirectory() as folder:
        (config,) = population.members(case, Path(folder))
        start = time.perf_counter()
        result = experiment.train_and_evaluate(config, Path(folder) / "run")
        total = time.perf_counter() - start
        found = {name: result[name] for name in ("steps", "steps_per_second", "seconds")}
        yield dict(epochs=case.epochs, total=total) | found
        shorter = dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=fewer))
        yield dict(epochs=fewer) | split(shorter, Path(folder))


def measure_together(case: population.Case) -> Iterator[Row]:
    """Members per second, as `benchmarks.population` has them, in as many lanes as the runner chooses."""
    found = population.measure(case)
    told = {name: found[name] for name in ("chosen", "population", "sequential")}
    yield dict(epochs=case.epochs) | told | dict(ratio=found["population"] / found["sequential"])


def split(config: Config, folder: Path) -> Row:
    """Seconds of a training and of its parts on their own (`benchmarks.share`), and shares of the whole."""
    shared = run.share(config)
    with population.entered(shared, [config], folder / "split") as group:
        seconds = {name: cost.wall for name, cost in share.split(group).items()}
        saves = share.num_saves(group)
    once = dataclasses.replace(config, checkpoint_every=NEVER * config.log_every)
    with population.entered(shared, [once], folder / "once") as group:
        compiled = loop.compile_group(group)
        seconds["saved_once"] = float(parts.spend(lambda: loop.train(group, *compiled))[0])
    return dict(saves=saves, parts=seconds, shares=shares(seconds, saves))


def shares(seconds: Mapping[str, float], saves: int) -> dict[str, float]:
    """Of a training's time: what is not its steps, which is checkpoints and the rest.

    The rest, `between_steps`, is lines of metrics.jsonl and the host's work: what a training takes that has one
    checkpoint, at its end, without that and the steps. Where batches are waited for, that is in it.

    Args:
        seconds: as `split` has them; `checkpoints` are so many `saves` on their own.
    """
    not_steps = seconds["whole"] - seconds["steps"]
    between = seconds["saved_once"] - seconds["checkpoints"] / saves - seconds["steps"]
    found = dict(not_steps=not_steps, checkpoints=not_steps - between, between_steps=between)
    return {name: taken / seconds["whole"] for name, taken in found.items()}
