"""What several steps in a call are worth, with batches made on the device: python -m benchmarks.calls.

The trainings are those of benchmarks.share. `one` is a call of the compiled step for each of so many steps, with
batches that the host reads, as in training but in turn; `several` is the same steps in calls of `log_every`, of
which the host gives the numbers of images, and the device takes their features. Nothing is written. Milliseconds
of a step by the clock, and of all cores in brackets, medians of rounds in turn; and whether all losses have the
same bits. With --save the line of JSON is also kept in results/calls.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from benchmarks import parts, population, share, timing
from benchmarks.timing import Cost
from pini_jax.methods.method import Batch
from pini_jax.task import run as runs
from pini_jax.task.run import Run
from pini_jax.train import lanes as lanes_of_runs
from pini_jax.train import loop
from pini_jax.train.lanes import Lanes, Step
from pini_jax.train.loop import Group

RESULT = Path(__file__).parent / "results" / "calls.json"
STEPS, ROUNDS = 200, 5
COLUMNS = ("training", "steps a call", "one, ms", "several, ms", "less", "same bits")
Losses = Float[np.ndarray, "s l"]


class Numbers(NamedTuple):
    """What the host says of batches, step by step and lane by lane."""

    view: Int[np.ndarray, "s l"]
    images: Int[np.ndarray, "s l b"]
    weights: Float[np.ndarray, "s l b"]


class Cached(NamedTuple):
    """What the device makes them of."""

    features: Float[Array, "l v n e"]
    labels: Int[Array, "l n"]

    def batch(self, numbers: Numbers) -> Batch:
        """Of one step."""
        lane: Int[np.ndarray, "l"] = np.arange(len(self.labels))
        features = self.features[lane[:, None], numbers.view[:, None], numbers.images]
        return Batch(features, self.labels[lane[:, None], numbers.images], numbers.weights)


def numbers_of(group: Group, steps: range) -> Numbers:
    """Of steps that every run takes in the lane of its number."""
    found = [[run.batches.at(step) for run in group.runs] for step in steps]
    return Numbers(*(np.array([[getattr(at, name) for at in row] for row in found]) for name in Numbers._fields))


def cache(run: Run) -> Cached:
    """The features of a run's views."""
    images = run.data.train
    views = [run.shared.frozen.images(images, "features", view) for view in runs.cached_views(run.config)]
    return Cached(jnp.stack(list(map(jnp.asarray, views))), jnp.asarray(runs.labels_of(images)))


def one(group: Group, step: Step, lanes: Lanes, steps: int) -> Losses:
    """The losses of so many calls."""
    lanes, losses = jax.tree.map(jnp.copy, lanes), []
    for _, turns in zip(range(steps), group.table, strict=False):
        lanes, done = step(lanes, loop.read_batches(group, turns))
        losses.append(done.loss)
    return np.array(losses)


def compile_several(group: Group, step: Step, lanes: Lanes, size: int) -> Callable[[int], Losses]:
    """What takes so many steps, a multiple of `size`, in calls of that size."""
    fixed = step.fixed
    cached = jax.tree.map(lambda *x: jnp.stack(x), *map(cache, group.runs))

    def call(lanes: Lanes, given: tuple, numbers: Numbers) -> tuple[Lanes, Array]:
        theta, text, cached = given

        def body(lanes: Lanes, numbers: Numbers) -> tuple[Lanes, Array]:
            batch = cached.batch(numbers)
            lanes, done = lanes_of_runs.take_step(fixed.method, fixed.num_samples, lanes, theta, text, batch)
            return lanes, done.loss

        return jax.lax.scan(body, lanes, numbers)

    given = fixed.theta, fixed.text, cached
    compiled = jax.jit(call, donate_argnums=0).lower(lanes, given, numbers_of(group, range(size))).compile()

    def several(steps: int) -> Losses:
        now, losses = jax.tree.map(jnp.copy, lanes), []
        for begin in range(0, steps, size):
            now, some = compiled(now, given, numbers_of(group, range(begin, begin + size)))
            losses.append(some)
        return np.concatenate(losses)

    return several


def measure(name: str, members: int, steps: int, rounds: int) -> dict:
    """The row of a training; its runs are of equal length and all side by side."""
    with tempfile.TemporaryDirectory() as folder:
        configs = share.configs_of(name, Path(folder), members)
        with population.entered(runs.share(configs[0]), configs, Path(folder) / "runs") as group:
            step, lanes = loop.compile_group(group)
            size = configs[0].log_every
            several = compile_several(group, step, lanes, size)
            ways: dict[str, Callable[[], Losses]] = {
                "one": functools.partial(one, group, step, lanes, steps),
                "several": functools.partial(several, steps),
            }
            row = dict(name=name, members=members, size=size, load=os.getloadavg()[0])
            row["same"] = bool((ways["one"]() == ways["several"]()).all())
            taken = [{way: parts.spend(take) / steps for way, take in ways.items()} for _ in range(rounds)]
    medians = {way: np.median([each[way] for each in taken], axis=0) for way in ways}
    return row | {way: Cost(*map(float, pair))._asdict() for way, pair in medians.items()}


def line(row: dict) -> list[str]:
    """Its cells."""
    cells = [f"{1e3 * row[way]['wall']:.2f} ({1e3 * row[way]['cpu']:.2f})" for way in ("one", "several")]
    less = {clock: f"{1 - row['several'][clock] / row['one'][clock]:.0%}" for clock in Cost._fields}
    same = "yes" if row["same"] else "no"
    return [f"{row['members']} x {row['name']}", f"{row['size']}", *cells, "{wall} ({cpu})".format(**less), same]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=list(share.CONFIGS), default=list(share.CONFIGS))
    parser.add_argument("--members", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args(arguments)
    with share.fresh_process():
        ways = [(name, members) for name in chosen.configs for members in chosen.members]
        rows = [measure(*way, chosen.steps, chosen.rounds) for way in ways]
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    found = timing.machine() | dict(rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("name", "members"))


if __name__ == "__main__":
    main()
