"""What calls of several steps are worth: python -m benchmarks.calls.

The trainings are those of benchmarks.share, from the first step to the last checkpoint. `one` is a call of the
compiled program for each step, `several` is as training has it, beside the number of steps that a call may have.
Seconds of the clock, and of all cores in brackets, medians of rounds in turn; and whether all of metrics.jsonl is
the same to the byte. With --save the line of JSON is also kept in results/calls.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import parts, population, share, timing
from benchmarks.timing import Cost
from pini_jax.config import Config
from pini_jax.task.run import Shared
from pini_jax.task.run import share as load
from pini_jax.train import loop

RESULT = Path(__file__).parent / "results" / "calls.json"
ROUNDS = 5
COLUMNS = ("training", "steps a call", "one, s", "several, s", "less", "same bits")
WAYS = ("one", "several")


def train(
    shared: Shared, configs: Sequence[Config], folder: Path, way: str
) -> tuple[parts.Pair, int, list[bytes]]:
    """What the steps of the runs take, how many a call may have, and the lines that they write."""
    with population.entered(shared, configs, folder) as group:
        group = group._replace(most=1 if way == "one" else group.most)
        compiled = loop.compile_group(group)
        taken = parts.spend(lambda: loop.train(group, *compiled))
    return taken, group.most, [(run.workdir / "metrics.jsonl").read_bytes() for run in group.runs]


def measure(name: str, members: int, rounds: int) -> dict:
    """The row of a training."""
    with tempfile.TemporaryDirectory() as folder:
        configs = share.configs_of(name, Path(folder), members)
        shared = load(configs[0])
        found = [
            {way: train(shared, configs, Path(folder) / f"{way}-{i}", way) for way in WAYS} for i in range(rounds)
        ]
    medians = {way: np.median([each[way][0] for each in found], axis=0) for way in WAYS}
    row = dict(name=name, members=members, size=found[0]["several"][1], load=os.getloadavg()[0])
    row["same"] = all(each["one"][2] == each["several"][2] for each in found)
    return row | {way: Cost(*map(float, pair))._asdict() for way, pair in medians.items()}


def line(row: dict) -> list[str]:
    """Its cells."""
    cells = ["{wall:,.2f} ({cpu:,.2f})".format(**row[way]) for way in WAYS]
    less = {clock: f"{1 - row['several'][clock] / row['one'][clock]:.0%}" for clock in Cost._fields}
    same = "yes" if row["same"] else "no"
    return [f"{row['members']} x {row['name']}", f"{row['size']}", *cells, "{wall} ({cpu})".format(**less), same]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=list(share.CONFIGS), default=list(share.CONFIGS))
    parser.add_argument("--members", nargs="+", type=int, default=list(share.MEMBERS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args(arguments)
    with share.fresh_process():
        ways = [(name, members) for name in chosen.configs for members in chosen.members]
        rows = [measure(*way, chosen.rounds) for way in ways]
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    found = timing.machine() | dict(rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("name", "members"))


if __name__ == "__main__":
    main()
