"""A whole training, as a command has it, and how much of its time is not its steps."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import parts, population, share
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.work import Row
from pini_jax.config import Config
from pini_jax.runs import experiment
from pini_jax.task import run
from pini_jax.train import loop

NEVER = 10**6  # lines of metrics.jsonl before there is another checkpoint


def measure(scale: Scale) -> Iterator[Row]:
    """Seconds from start to end, and of the phases as result.json has them; then the shares of a shorter one."""
    clip, classes, shots, epochs, fewer = scale.training
    told = dict(classes=classes, shots=shots)
    case = population.Case("training", clip, classes, shots, {"seed": (1,)}, 0, epochs, epochs)
    with tempfile.TemporaryDirectory() as folder:
        (config,) = population.members(case, Path(folder))
        start = time.perf_counter()
        result = experiment.train_and_evaluate(config, Path(folder) / "run")
        total = time.perf_counter() - start
        found = {name: result[name] for name in ("steps", "steps_per_second", "seconds")}
        yield told | dict(epochs=epochs, total=total) | found
        shorter = dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=fewer))
        yield told | dict(epochs=fewer) | split(shorter, Path(folder))


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
