"""How much of a training is not its steps: python -m benchmarks.share.

`digits` is configs/digits.py, `features` configs/features.py on a pack of noise of DTD's shape; each as one run,
and as 15 side by side. `steps` is so many, as many in a call as there may be, with the same batches in all;
`batches` is reading those of every step, which a thread does beside; `checkpoints` is writing so many on their
own. Seconds of the clock, and of all cores in brackets. With --save the line of JSON is also kept in
results/share.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import commands, parts, population, timing
from benchmarks.timing import Cost
from pini_jax.config import Config
from pini_jax.core import config_file, runtime
from pini_jax.runs import population as populations
from pini_jax.task.run import share
from pini_jax.train import calls, loop
from pini_jax.train.group import Group
from pini_jax.train.lanes import Step
from pini_jax.train.schedule import Turns

RESULT = Path(__file__).parent / "results" / "share.json"
CONFIGS = {"digits": "digits", "features": "features:path={folder}/pack.npz"}
MEMBERS = (1, 15)
COLUMNS = ("training", "steps", "whole, s", "steps, s", "batches, s", "checkpoints, s", "not the steps")


def configs_of(name: str, folder: Path, members: int) -> list[Config]:
    """As many seeds of a config."""
    commands.write_pack(folder / "pack.npz")
    settings = config_file.load_config(CONFIGS[name].format(folder=folder))
    settings.population = {"seed": tuple(range(1, members + 1))}
    return [member.config for member in populations.members(settings)]


def pieces(group: Group) -> list[list[Turns]]:
    """The ticks of the training, as many in a call as there may be."""
    ticks = list(group.timetable())
    return [ticks[begin : begin + group.most] for begin in range(0, len(ticks), group.most)]


def steps(group: Group, step: Step, lanes: loop.Lanes) -> Callable[[], None]:
    """What takes as many as the training has; the batches of a full call and of the last one are read before."""
    lengths = [len(piece) for piece in pieces(group)]
    tables = {len(piece): calls.read_batches(group, piece) for piece in (pieces(group)[0], pieces(group)[-1])}

    def take() -> None:
        after = jax.tree.map(jnp.copy, lanes)
        for length in lengths:
            after, done = step(after, tables[length])
        jax.block_until_ready((after, done))

    return take


def batches(group: Group) -> None:
    """All that the training reads."""
    for piece in pieces(group):
        calls.read_batches(group, piece)


def measure(name: str, members: int) -> dict:
    """The row of a training."""
    with tempfile.TemporaryDirectory() as folder:
        configs = configs_of(name, Path(folder), members)
        with population.entered(share(configs[0]), configs, Path(folder) / "runs") as group:
            found = split(group)
    row = dict(name=name, members=members, load=os.getloadavg()[0], ticks=max(group.lengths))
    return row | {key: cost._asdict() for key, cost in found.items()}


def split(group: Group) -> dict[str, Cost]:
    """What a training takes, and its parts on their own."""
    compiled = loop.compile_group(group)
    take = steps(group, *compiled)
    take()  # warms up
    found = {
        "steps": parts.spend(take),
        "batches": parts.spend(lambda: batches(group)),
        "checkpoints": parts.time_save(group.trainees[0].recorder.state) * num_saves(group),
        "whole": parts.spend(lambda: loop.train(group, *compiled)),
    }
    return {key: Cost(*map(float, pair)) for key, pair in found.items()}


def num_saves(group: Group) -> int:
    """Checkpoints of all runs."""
    return sum(-(-run.num_steps // run.config.checkpoint_every) for run in group.runs)


def line(row: dict) -> list[str]:
    """Its cells."""
    cells = ["{wall:,.2f} ({cpu:,.2f})".format(**row[key]) for key in ("whole", "steps", "batches", "checkpoints")]
    rest = {clock: f"{1 - row['steps'][clock] / row['whole'][clock]:.0%}" for clock in Cost._fields}
    return [f"{row['members']} x {row['name']}", f"{row['ticks']:,}", *cells, "{wall} ({cpu})".format(**rest)]


@contextlib.contextmanager
def fresh_process() -> Iterator[None]:
    """A process as a command has it, with a cache of its own, and without bars and lines."""
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stderr(io.StringIO()):
        os.environ["XDG_CACHE_HOME"] = cache
        runtime.prepare()
        logging.getLogger("pini_jax").setLevel(logging.ERROR)
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--members", nargs="+", type=int, default=list(MEMBERS))
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args(arguments)
    with fresh_process():
        rows = [measure(name, members) for name in chosen.configs for members in chosen.members]
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    found = timing.machine() | dict(rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("name", "members"))


if __name__ == "__main__":
    main()
