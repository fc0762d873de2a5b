"""A population in one command, against a command for every member: python -m benchmarks.commands.

From the start of a process to its end, with imports, compiling (programs are in the cache), training, checkpoints
and evaluation. `digits` is configs/digits.py; `features` is configs/features.py on a pack of noise with the shapes
of ViT-B/32's features of DTD. Members differ in their seeds. A command of one member is run `--each` times, the
mean stands for all. CPU seconds count all cores, and tell more than the clock where others use the machine.
With --save the line of JSON is also kept in results/commands.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import timing
from benchmarks.timing import Cost

RESULT = Path(__file__).parent / "results" / "commands.json"
TARGET = 3.0  # times as fast
CLASSES, WIDTH, TRAIN, TEST = 47, 512, 40, 36  # of DTD; images are those of a class
COLUMNS = ("members", "a command each, s", "one command, s", "ratio", "each, CPU s", "one, CPU s", "ratio ")


def cost(module: str, *arguments: str) -> Cost:
    """Of a command in a process of its own, and those that it starts."""
    return timing.cost([sys.executable, "-m", module, *arguments])


def write_pack(path: Path, seed: int = 0) -> None:
    """Features of noise around a direction for each class."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((CLASSES, WIDTH), np.float32)
    arrays: dict[str, np.ndarray] = {"text": centres, "classnames": np.array([f"c{i}" for i in range(CLASSES)])}
    for split, images in (("train", TRAIN), ("test", TEST)):
        labels = np.repeat(np.arange(CLASSES), images)
        noise = chance.standard_normal((len(labels), WIDTH), np.float32)
        arrays |= {f"{split}_x": centres[labels] + 4 * noise, f"{split}_y": labels}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def measure(name: str, members: int, each: int, settings: Sequence[str]) -> dict:
    """The row of a config."""
    with tempfile.TemporaryDirectory() as folder:
        write_pack(Path(folder) / "pack.npz")
        config = {"digits": "digits", "features": f"features:path={folder}/pack.npz"}[name]
        common = [f"--config={config}", *(f"--config.{setting}" for setting in settings)]

        def command(place: str, *more: str) -> Cost:
            return cost("pini_jax.main", *common, f"--workdir={folder}/{place}", *more)

        def population(place: str) -> Cost:
            return command(place, f"--config.population={{'seed': {tuple(range(1, members + 1))}}}")

        for first in (command, population):  # whose programs the others find in the cache
            first("first" + first.__name__)
        alone = [command(f"seed_{seed}", f"--config.seed={seed}") for seed in range(1, each + 1)]
        each_of_them = Cost(*(members * float(np.mean(x)) for x in zip(*alone, strict=True)))
        one = population("population")
    load = os.getloadavg()[0]
    return dict(name=name, members=members, load=load, each=each_of_them._asdict(), one=one._asdict())


def line(row: dict) -> list[str]:
    """Its cells."""
    cells = [f"{row['members']} x {row['name']}"]
    for kind in ("wall", "cpu"):
        each, one = row["each"][kind], row["one"][kind]
        cells += [f"{each:,.0f}", f"{one:,.0f}", f"{each / one:.1f}"]
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=("digits", "features"), default=["digits", "features"])
    parser.add_argument("--members", type=int, default=15)
    parser.add_argument("--each", type=int, default=3, help="commands of one member")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all runs")
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        rows = [measure(name, chosen.members, chosen.each, chosen.set) for name in chosen.configs]
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    print(f"target: {TARGET:.0f} times as fast")
    found = timing.machine() | dict(settings=chosen.set, rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("name", "members"))


if __name__ == "__main__":
    main()
