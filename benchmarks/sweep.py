"""What the papers' whole sweep takes, by a model that is held against a real one: python -m benchmarks.sweep.

11 datasets x 5 shots x 3 seeds (configs/paper_sweep.py), planned as `pini sweep plan` does, on 1, 8 and 64
workers: whoever is free first takes the next unit. Every worker is a machine of its own, which compiles programs
and encodes test images the first time that it meets a dataset. What the parts cost is measured on the device at
hand (`benchmarks.parts`); or --costs names a file: JSON as that command prints it, or results.jsonl of
`benchmarks.accelerator`, which has the towers alone. Beside it stands a card computed from its data sheet
(`benchmarks.costs.H200`), which is no measurement. `one core of it` has seconds of all cores for those of the
clock, which tell more where others use the machine. `views` are cached; 0 are fresh ones, in 100 epochs.

The paper's code takes one run after another, 77 tokens of every class and the image tower in every step: at hand
its steps are those that `benchmarks.step` has measured in PyTorch, and on the card as many operations at the same
share of the peak.

Then a small sweep of the digits is predicted, and trained by two workers of this machine. Its costs are measured
by two processes at once, since workers share the cores; CPU seconds tell more where others use them too. What
workers take that find nothing to do is measured on the finished sweep. --nocheck leaves all of that out. Machines
that are killed, and buckets, are in `benchmarks.leases`. With --save all is kept in results/sweep.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import commands, costs, flops, inputs, parts, timing
from benchmarks.costs import H200, Costs, Facts, Point, Unit
from benchmarks.inputs import Lengths
from benchmarks.timing import Cost
from pini_jax.core import config_file
from pini_jax.runs import plan as plans
from pini_jax.task.run import share

RESULT = Path(__file__).parent / "results" / "sweep.json"
STEPS = Path(__file__).parent / "results" / "step.json"
VIEWS = (0, 8)
TOGETHER = (plans.TOGETHER, 1)  # runs of a unit at most
WORKERS = (1, 8, 64)
GOAL = 1.0  # hours on one H200, with cached views
WITHIN = 0.15  # of what a real sweep takes, a prediction is to be
CLIP = inputs.VIT_B_16


class Dataset(NamedTuple):
    """What a sweep sees of it.

    Attributes:
        lengths: of the released prompts.
        test: images.
    """

    lengths: Lengths
    test: int


# Test images: CoOp's splits. Lengths of the six that `inputs` lacks: names in openai/CLIP, data/prompts.md.
DATASETS = {
    "imagenet": Dataset(inputs.LENGTHS[1000], 50_000),
    "caltech101": Dataset(Lengths("Caltech101", 20, {3: 60, 4: 25, 5: 8, 6: 5, 7: 2}), 2_465),
    "oxford_pets": Dataset(inputs.LENGTHS[37], 3_669),
    "stanford_cars": Dataset(
        Lengths("Cars", 20, {9: 55, 10: 74, 11: 30, 12: 11, 13: 8, 14: 10, 15: 6, 16: 1, 18: 1}), 8_041
    ),
    "oxford_flowers": Dataset(Lengths("Flowers", 25, {3: 8, 4: 51, 5: 29, 6: 11, 7: 1, 8: 2}), 2_463),
    "food101": Dataset(Lengths("Food101", 24, {3: 25, 4: 41, 5: 30, 6: 4, 8: 1}), 30_300),
    "fgvc_aircraft": Dataset(inputs.LENGTHS[100], 3_333),
    "sun397": Dataset(inputs.LENGTHS[397], 19_850),
    "dtd": Dataset(Lengths("DTD", 17, {3: 13, 4: 23, 5: 11}), 1_692),
    "eurosat": Dataset(inputs.LENGTHS[10], 8_100),
    "ucf101": Dataset(Lengths("UCF101", 22, {3: 18, 4: 58, 5: 23, 6: 1, 7: 1}), 3_783),
}


# ------------------------------------------------------------------------------------------------ the schedule


class Schedule(NamedTuple):
    """Who does what.

    Attributes:
        seconds: from the first start to the last end.
        tasks: every unit, and whether its worker met the dataset for the first time.
    """

    seconds: float
    tasks: list[tuple[Unit, bool]]


def simulate(units: Sequence[Unit], workers: int, given: Costs) -> Schedule:
    """List scheduling: whoever is free first takes the next unit, in the plan's order."""
    free = [(0.0, worker) for worker in range(workers)]
    met: list[set[str]] = [set() for _ in range(workers)]
    tasks = []
    for unit in units:
        now, worker = heapq.heappop(free)
        tasks.append((unit, unit.dataset not in met[worker]))
        met[worker].add(unit.dataset)
        heapq.heappush(free, (now + seconds(tasks[-1:], given), worker))
    return Schedule(max(now for now, _ in free), tasks)


def seconds(tasks: Sequence[tuple[Unit, bool]], given: Costs) -> float:
    """Of one worker after the other."""
    return sum(by_part(tasks, given).values())


def by_part(tasks: Sequence[tuple[Unit, bool]], given: Costs) -> Counter[str]:
    """What all of them go to."""
    total: Counter[str] = Counter()
    for unit, first in tasks:
        total.update(costs.parts(unit, given, first))
    return total


# ------------------------------------------------------------------------------------------------ the papers'


def devices(file: Path | None) -> dict[str, Costs]:
    """Their costs, by name: those at hand or of a file, towers that an accelerator's file has, and a card's."""
    if file and file.suffix == ".json":
        name, here = file.stem, {clock: costs.from_dict(x) for clock, x in json.loads(file.read_text()).items()}
    else:
        name, here = "at hand", parts.measure("paper")
    found = {name: here["wall"], "one core of it": here["cpu"]}
    if file and file.suffix == ".jsonl":
        found[file.stem] = costs.from_accelerator(here["wall"], map(json.loads, file.read_text().splitlines()))
    return found | {f"{H200.name}, computed": costs.on_card(here["cpu"], H200, CLIP)}


def paper_units(views: int, together: int, room: int) -> list[Unit]:
    """Of configs/paper_sweep.py."""
    plan = plans.make_plan(config_file.load_config(f"paper_sweep:views={views}"), together)
    units = []
    for number in range(len(plan.units)):
        configs = list(plan.configs(number).values())
        dataset = DATASETS[configs[0].dataset]
        rows = costs.packed(dataset.lengths)
        facts = Facts(len(rows.end), costs.tokens_of(rows), dataset.test)
        units.append(costs.describe(configs, facts, room))
    return units


def predict(name: str, given: Costs) -> list[dict]:
    """A row for each way to sweep."""
    rows = []
    for views in VIEWS:
        for together in TOGETHER:
            units = paper_units(views, together, given.room)
            hours = {workers: simulate(units, workers, given).seconds / 3600 for workers in WORKERS}
            alone = by_part(simulate(units, 1, given).tasks, given)
            shares = {part: taken / alone.total() for part, taken in alone.items()}
            rows.append(
                dict(device=name, views=views, together=together, units=len(units), hours=hours, parts=shares)
            )
    return rows


def released(step: Sequence[Point]) -> float:
    """Hours of the steps of the paper's code, one after another.

    Args:
        step: by classes.
    """
    units = paper_units(views=0, together=1, room=costs.ANY)
    return sum(unit.steps * costs.at(step, unit.facts.classes) for unit in units) / 3600


def released_at_hand() -> tuple[str, list[Point]]:
    """The processor on which `benchmarks.step` has measured the paper's code in PyTorch, and its steps."""
    found = json.loads(STEPS.read_text())
    steps = {row["classes"]: row["theirs"] for row in found["rows"] if row["image_tower"] == "in"}
    points = [Point(classes, x["ms"]["median"] / 1e3) for classes, x in sorted(steps.items()) if "ms" in x]
    return f"{found['device']}, {found['processor']}", points


def released_on_card() -> list[Point]:
    """As many operations as the paper's code needs, at the same share of the peak."""
    rate = H200.peak * H200.texts
    return [Point(n, flops.released_step_flops(CLIP, n, inputs.BATCH) / rate) for n in sorted(inputs.LENGTHS)]


# ------------------------------------------------------------------------------------------------ a real one


class Small(NamedTuple):
    """A sweep of the digits."""

    population: dict[str, Sequence[int]]
    together: int
    workers: int


SMALL = Small({"shots": (8, 16), "seed": (1, 2, 3, 4)}, 2, 2)


def check(small: Small) -> dict:
    """What a sweep was predicted to take, and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for _ in range(2):  # the first compiles what the second, and the sweep, find in the cache
            given = parts.measure("digits", small.workers)
            shutil.rmtree(Path(folder) / "pini_jax" / "features")
        load = os.getloadavg()[0]
        taken, idle = train(small, Path(folder) / "sweep")
    tasks = simulate(small_units(small, given["wall"].room), small.workers, given["wall"])
    predicted = Cost(idle.wall + tasks.seconds, idle.cpu + seconds(tasks.tasks, given["cpu"]))
    return dict(
        load=load,
        idle=idle._asdict(),
        predicted=predicted._asdict(),
        taken=taken._asdict(),
        error={name: x / y - 1 for name, x, y in zip(Cost._fields, predicted, taken, strict=True)},
    )


def train(small: Small, workdir: Path) -> tuple[Cost, Cost]:
    """What the sweep takes; and the same command when nothing is left to do."""
    command = ["pini_jax.launch.sweep_run", f"--workdir={workdir}", f"--workers={small.workers}", "--nowait"]
    population = f"--config.population={small.population}"
    commands.cost(
        *("pini_jax.launch.sweep_plan", "--config=digits", population),
        *(f"--together={small.together}", f"--workdir={workdir}"),
    )
    return commands.cost(*command), commands.cost(*command)


def small_units(small: Small, room: int) -> list[Unit]:
    """Of the same plan."""
    settings = config_file.load_config("digits")
    settings.population = small.population
    plan = plans.make_plan(settings, small.together)
    units = [list(plan.configs(number).values()) for number in range(len(plan.units))]
    facts = parts.facts_of(share(units[0][0]))
    return [costs.describe(unit, facts, room) for unit in units]


# ------------------------------------------------------------------------------------------------ what is told


def tell(rows: Sequence[dict]) -> None:
    """Hours, and where those of one worker go."""
    ways = [(row["device"], str(row["views"]), str(row["together"])) for row in rows]
    hours = [[f"{row['hours'][workers]:,.2f}" for workers in WORKERS] for row in rows]
    heads = ("device", "views", "runs of a unit", *(f"{workers} workers, h" for workers in WORKERS))
    print(timing.table(heads, [[*way, *cells] for way, cells in zip(ways, hours, strict=True)]))
    print()
    shares = [[f"{share:.1%}" for share in row["parts"].values()] for row in rows]
    heads = ("device", "views", "runs of a unit", *rows[0]["parts"])
    print(timing.table(heads, [[*way, *cells] for way, cells in zip(ways, shares, strict=True)]))


def tell_check(found: dict) -> None:
    """Beside each other."""
    lines = [
        [kind, *(f"{found[kind][clock]:,.1f}" for clock in Cost._fields)]
        for kind in ("predicted", "taken", "idle")
    ]
    lines.append(["error", *(f"{found['error'][clock]:+.0%}" for clock in Cost._fields)])
    print(timing.table((f"{SMALL.workers} workers, digits", "clock, s", "CPU, s"), lines))
    print(f"load {found['load']:.1f}; target: within {WITHIN:.0%}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, metavar="FILE", help="instead of those at hand")
    parser.add_argument("--nocheck", dest="check", action="store_false", help="train no sweep")
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    given = devices(chosen.costs)
    rows = [row for name, of_device in given.items() for row in predict(name, of_device)]
    tell(rows)
    processor, steps = released_at_hand()
    theirs = {processor: released(steps), f"{H200.name}, computed": released(released_on_card())}
    for device, hours in theirs.items():
        print(f"the paper's code, steps alone, {device}: {hours:,.1f} h")
    print(f"goal: {GOAL:.0f} h on one {H200.name} with cached views")
    kept = {name: dataclasses.asdict(of_device) for name, of_device in given.items()}
    found = timing.machine() | dict(load=load, costs=kept, rows=rows, released=theirs)
    if chosen.check:
        found["check"] = check(SMALL)
        tell_check(found["check"])
    print(json.dumps(found))
    if chosen.save:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
