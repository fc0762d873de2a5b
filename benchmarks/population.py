"""Members per second of a population, against running them one after another: python -m benchmarks.population.

15 members (5 seeds by 3 learning rates) of the released configuration, cached features, batches of 32 images;
class names are as long as those of the dataset. The text tower is that of a ViT-B/16 with random weights, or the
bundled CLIP's. `alone` and `lanes` are milliseconds of a member's step, by the compiled steps of one lane and of
15, which take turns; `chosen` is the number of lanes that the runner takes. `sequential` and `population`
are members per second of whole trainings, with batches, lines and checkpoints: each member by itself, and all
together as the runner has them. Compiling is in none of it, and is paid once by a population. In the row of shots
the members are of different length (shots 1, 2, 4, 8, 16 by 3 seeds). Times are the median, and in brackets the
lowest and the highest; the trainings are taken once. With --save the line of JSON is also kept in
results/population.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import string
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as Pictures

from benchmarks import inputs, random_clip, timing
from benchmarks.inputs import Lengths
from benchmarks.timing import Times
from pini_jax.clip.architecture import Architecture, Image, Transformer
from pini_jax.config import Config
from pini_jax.core import runtime
from pini_jax.runs import experiment, population
from pini_jax.task.run import Shared, plan, share
from pini_jax.train import calls, loop
from pini_jax.train.group import Group, make_group
from pini_jax.train.lanes import BatchTable, Lanes, Step
from pini_jax.train.lanes import stack as stack_lanes

RESULT = Path(__file__).parent / "results" / "population.json"
# Features are cached: the image tower is as small as can be.
SIZES = Architecture(Image(32, 16, Transformer(64, 1, 1, 64)), inputs.VIT_B_16.text, inputs.VIT_B_16.embed_dim)
SEEDS, RATES = (1, 2, 3, 4, 5), (5e-4, 1e-3, 2e-3)
SHOTS = (1, 2, 4, 8, 16)
TEST_IMAGES = 1  # of a class
ROUND = 1.0  # seconds of a measurement, at least
TARGET = 8.0  # times as fast as sequential, on a GPU with 10 classes
COLUMNS = ("members", "classes", "alone, ms", "lanes, ms", "ratio", "chosen", "sequential", "population", "ratio ")


class Case(NamedTuple):
    """A population.

    Attributes:
        clip: `tiny_clip`, or "" for the text tower of a ViT-B/16.
        repeats: of the steps.
        epochs: of the whole trainings; 0 takes none.
        accelerated: the same where there is an accelerator.
    """

    name: str
    clip: str
    classes: int
    shots: int
    members: Mapping[str, Sequence[Any]]
    repeats: int
    epochs: int
    accelerated: int


GRID = {"seed": SEEDS, "optim.lr": RATES}
CASES = {
    case.name: case
    for case in (
        Case("bundled", "tiny_clip", 10, 16, GRID, 9, 40, 100),
        Case("bundled, shots", "tiny_clip", 10, 16, {"shots": SHOTS, "seed": SEEDS[:3]}, 0, 40, 100),
        Case("ViT-B/16", "", 10, 16, GRID, 5, 1, 40),
        Case("ViT-B/16, 37", "", 37, 4, GRID, 3, 0, 40),
        Case("ViT-B/16, 100", "", 100, 1, GRID, 2, 0, 40),
    )
}


# ------------------------------------------------------------------------------------------------ data


def class_names(lengths: Lengths) -> list[str]:
    """Words of one letter, which any tokenizer takes for a token; a full stop and the end token come behind."""
    letters, names = string.ascii_lowercase + string.digits, []
    for size, number in sorted(lengths.suffix.items()):
        names += [" ".join(letters[i // 36**n % 36] for n in range(size - 2)) for i in range(number)]
    return names


def write_images(folder: Path, names: Sequence[str], shots: int) -> None:
    """Images of noise in class folders."""
    chance = np.random.default_rng(inputs.SEED)
    for name in names:
        for split, number in (("train", shots), ("test", TEST_IMAGES)):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(number):
                pixels = chance.integers(0, 256, (32, 32, 3), np.uint8)
                Pictures.fromarray(pixels).save(place / f"{i:02d}.png")


def members(case: Case, folder: Path) -> list[Config]:
    """The runs of a case, whose data are written to `folder`."""
    lengths = inputs.LENGTHS[case.classes]
    write_images(folder / "images", class_names(lengths), case.shots)
    if not case.clip:
        (folder / "clip").mkdir()
        random_clip.write(folder / "clip", SIZES)
    settings = dict(
        clip=case.clip or str(folder / "clip"),
        dataset=f"folder:{folder / 'images'}",
        template=" ".join("x" * lengths.prefix) + " {}.",
        zero_shot_template="{}.",
        shots=case.shots,
        views=1,
        optim=dict(epochs=max(1, case.epochs if jax.default_backend() == "cpu" else case.accelerated)),
        population=case.members,
    )
    return [member.config for member in population.members(settings)]


# ------------------------------------------------------------------------------------------------ steps


def seconds_of(step: Step, lanes: Lanes, table: BatchTable, ticks: int) -> float:
    """Of a tick, where so many follow each other as in training: none waits to be asked for."""
    lanes = jax.block_until_ready(jax.tree.map(jnp.copy, lanes))
    start = time.perf_counter()
    for _ in range(ticks):
        lanes, parts = step(lanes, table)
    jax.block_until_ready((lanes, parts))
    return (time.perf_counter() - start) / ticks


def measure_steps(group: Group, repeats: int) -> dict[str, Times]:
    """Seconds of a member's step, alone and in lanes."""
    group = group._replace(most=1)
    together = group._replace(width=len(group.runs))
    steps = {}
    for name, of_name in {"alone": alone(group, 0), "lanes": together}.items():
        step, lanes = loop.compile_group(of_name)
        steps[name] = step, lanes, calls.read_batches(of_name, [next(of_name.timetable())])
    members = {"alone": 1, "lanes": len(group.runs)}
    ticks = {name: max(1, round(ROUND / seconds_of(*each, 1))) for name, each in steps.items()}
    rounds = [{name: seconds_of(*each, ticks[name]) for name, each in steps.items()} for _ in range(repeats)]
    return {name: timing.summarise([taken[name] / members[name] for taken in rounds]) for name in steps}


# ------------------------------------------------------------------------------------------------ trainings


@contextlib.contextmanager
def entered(shared: Shared, members: Sequence[Config], workdir: Path) -> Iterator[Group]:
    """Runs that are about to train, in folders of their own, in as many lanes as the runner has."""
    with contextlib.ExitStack() as stack:
        runs = [plan(config, workdir / str(i), shared) for i, config in enumerate(members)]
        for run in runs:
            run.workdir.mkdir(parents=True)
        yield make_group(runs, experiment.begin(runs, {}, stack))


def alone(group: Group, member: int) -> Group:
    """One of the runs, by itself."""
    return make_group([group.runs[member]], {0: group.trainees[member]})


def train(group: Group, step: Step, lanes: Lanes) -> float:
    """Seconds from the first step to the last checkpoint."""
    start = time.perf_counter()
    loop.train(group, step, lanes)
    return time.perf_counter() - start


def train_sequentially(group: Group) -> float:
    """The same, one after another; steps of the same batch size are compiled once."""
    steps: dict[int, Step] = {}
    taken = 0.0
    for i, run in enumerate(group.runs):
        size = run.batches.batch_size
        if size not in steps:
            steps[size] = loop.compile_group(alone(group, i))[0]
        taken += train(alone(group, i), steps[size], stack_lanes(run.shared.mesh, [group.trainees[i].lane]))
    return taken


def measure(case: Case) -> dict:
    """The row of a case."""
    epochs = case.epochs if jax.default_backend() == "cpu" else case.accelerated
    with tempfile.TemporaryDirectory() as folder:
        configs = members(case, Path(folder))
        shared = share(configs[0])
        made: dict[str, Any] = dict(name=case.name, classes=case.classes, members=len(configs))
        with entered(shared, configs, Path(folder) / "population") as group:
            if case.repeats:
                times = measure_steps(group, case.repeats)
                made |= {name: of_name._asdict() for name, of_name in times.items()}
            made["chosen"] = group.width
            if epochs:
                made["population"] = len(configs) / train(group, *loop.compile_group(group))
        if epochs:
            with entered(shared, configs, Path(folder) / "sequential") as group:
                made["sequential"] = len(configs) / train_sequentially(group)
    return made


# ------------------------------------------------------------------------------------------------ what is told


def line(row: Mapping) -> list[str]:
    """Its cells."""

    def ms(name: str) -> str:
        shown = {key: 1e3 * x for key, x in row[name].items()} if name in row else {}
        return "{median:,.2f} ({lowest:,.2f}-{highest:,.2f})".format(**shown) if shown else ""

    steps = f"{row['alone']['median'] / row['lanes']['median']:.2f}" if "lanes" in row else ""
    whole = [f"{row[name]:.3f}" if name in row else "" for name in ("sequential", "population")]
    ratio = f"{row['population'] / row['sequential']:.2f}" if "population" in row else ""
    numbers = f"{row['members']} x {row['name']}", str(row["classes"])
    return [*numbers, ms("alone"), ms("lanes"), steps, str(row["chosen"]), *whole, ratio]


def main() -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        runtime.prepare()
        logging.getLogger("pini_jax").setLevel(logging.ERROR)
        for name in chosen.cases:
            with contextlib.redirect_stderr(io.StringIO()):  # bars
                rows.append(measure(CASES[name]))
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    print(f"target: never slower than sequential; on a GPU, with 10 classes, {TARGET:.0f} times as fast")
    found = timing.machine() | dict(rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("name",))


if __name__ == "__main__":
    main()
