"""A sweep of 165 small runs by one, two and four workers of this machine: python -m benchmarks.workers.

Digits (by the bundled CLIP) and ten packs of features (47 classes, 512 numbers), with 1, 2, 4, 8 and 16 shots and
seeds 1 to 3. Each row is a sweep from the start of its processes to their end, with imports, data, training,
checkpoints, evaluation and claims; programs are in the cache, where `first` has left them. `alone` is one process
that trains the same units without a sweep: what a run costs more than there is the sweep's own. CPU seconds count
all cores, and tell more than the clock where others use the machine. The bits of all runs are compared with those
of `first`. With --save the line of JSON is also kept in results/workers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import commands, timing
from pini_jax.core import runtime
from pini_jax.core.store import open_store
from pini_jax.runs import experiment, plan

RESULT = Path(__file__).parent / "results" / "workers.json"
PACKS = 10
SHOTS, SEEDS, WORKERS = (1, 2, 4, 8, 16), (1, 2, 3), (1, 2, 4)
FILES = ("metrics.jsonl", "injector.safetensors", "predictions.parquet", "selection.json")
COLUMNS = ("", "s", "CPU s", "CPU s a run", "other bits")
TARGETS = {"CPU seconds that a sweep adds to a run": 0.5}


def write_packs(folder: Path) -> list[str]:
    """Datasets of features."""
    for i in range(PACKS):
        commands.write_pack(folder / f"pack_{i}.npz", seed=i)
    return [f"features:{folder}/pack_{i}.npz" for i in range(PACKS)]


def make_plan(folder: Path) -> plan.Plan:
    """165 runs."""
    packs = [{"dataset": name, "clip": ""} for name in write_packs(folder)]
    prompts = dict.fromkeys(("template", "zero_shot_template"), "a photo of the digit {}.")
    values = [prompts | {"dataset": "digits", "clip": "tiny_clip"}, *packs]
    several = [own | {"shots": shots, "seed": seed} for own in values for shots in SHOTS for seed in SEEDS]
    common = {"method": "task_res", "views": 1, "num_draws": 2, "optim": {"epochs": 20}}
    return plan.make_plan(common | {"population": several})


def train_alone(workdir: Path) -> None:
    """All units of the plan, one after another."""
    runtime.prepare()
    whole = plan.read_plan(open_store(workdir))
    for unit in range(len(whole.units)):
        experiment.train_together({workdir / name: config for name, config in whole.configs(unit).items()})


def contents(workdir: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The bytes of what runs leave."""
    return {f"{name}/{file}": (workdir / name / file).read_bytes() for name in names for file in FILES}


def measure(whole: plan.Plan, workdir: Path, module: str, *words: str) -> tuple[dict, dict[str, bytes]]:
    """What a command costs that trains the plan in a new folder, and the bits that it leaves."""
    plan.write_plan(whole, open_store(workdir))
    cost = timing.cost([sys.executable, "-m", module, *words, f"--workdir={workdir}"])
    return cost._asdict(), contents(workdir, [run.name for run in whole.runs])


def line(row: dict, runs: int) -> list[str]:
    """Its cells."""
    return [
        row["name"],
        *(f"{row[x]:.0f}" for x in ("wall", "cpu")),
        f"{row['cpu'] / runs:.2f}",
        f"{row['other_bits']}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    parser.add_argument("--workdir", help=argparse.SUPPRESS)  # of the process that trains alone
    chosen = parser.parse_args(arguments)
    if chosen.workdir:
        return train_alone(Path(chosen.workdir))
    own, sweep = "benchmarks.workers", "launch.sweep_run"
    settings = {"first": (own,), "alone": (own,)} | {f"{n} workers": (sweep, f"--workers={n}") for n in WORKERS}
    rows: list[dict] = []
    bits: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        whole = make_plan(Path(folder))
        for name, words in settings.items():
            row, found = measure(whole, Path(folder, name.replace(" ", "_")), *words)
            bits = bits or found  # of the first one
            other = sum(found[key] != bits[key] for key in bits)
            rows.append({"name": name, "load": os.getloadavg()[0], "other_bits": other} | row)
            print(json.dumps(rows[-1]), flush=True)
    print(timing.table(COLUMNS, [line(row, len(whole.runs)) for row in rows]))
    found = timing.machine() | dict(runs=len(whole.runs), units=len(whole.units), targets=TARGETS, rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("name",))


if __name__ == "__main__":
    main()
