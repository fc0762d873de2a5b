"""Time and memory of a training step against its sizes: python -m benchmarks.scaling.

The released configuration on a text tower of ViT-B/16 with random weights and cached features of 32 images, unless
the table says otherwise; prompts are as long as ImageNet's. `classes`: 10 to 10,000, each in a process of its own.
`temporary` is what the compiled step computes on the way, on one device, without weights; `peak` is how far the
greatest memory of the process (on a GPU, of the device) rose above what it had when the weights were loaded, the
compiler's included. An exponent is the slope of the least squares line through the logarithms: of the whole
column, and of its `tail` from 300 classes on, where what does not depend on their number is small. `draws`: k
image draws at 37 classes. `shots`: 10 classes, whose batch is what there is, up to 32 images. `devices`: a CPU
that plays several, with 100 classes; they share its cores, so that what is shown is the price of splitting, not
its gain. Times are the median, and in brackets the lowest and the highest, in turns within a table; a step of many
seconds is taken once. With --save the line of JSON is also kept in results/scaling.json.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks import inputs, random_clip, step, timing
from benchmarks.inputs import Lengths
from benchmarks.timing import Times, Worker
from pini_jax.clip import pretrained
from pini_jax.clip.architecture import Architecture, Image, Transformer
from pini_jax.core import mesh
from pini_jax.train import lanes

RESULT = Path(__file__).parent / "results" / "scaling.json"
# Features are given: the image tower is as small as can be.
SIZES = Architecture(Image(32, 16, Transformer(64, 1, 1, 64)), inputs.VIT_B_16.text, inputs.VIT_B_16.embed_dim)
CLASSES, TAIL = (10, 30, 100, 300, 1000, 3000, 10000), 300
DRAWS, DRAWS_CLASSES = (1, 2, 4, 8, 16, 32), 37
SHOTS, SHOTS_CLASSES = (1, 2, 4, 8, 16), 10
DEVICES, DEVICES_CLASSES = (1, 2, 4, 8), 100
ENOUGH = 12.0  # seconds that are spent on one size, after a first step
REPEATS = 9  # at most
TARGETS = {"k=8 / k=1": 1.1, "exponent": 1.05}
AXES = ("classes", "draws", "shots", "devices")
LAST = {"classes": "peak, MB", "shots": "epoch"}  # columns


def lengths(classes: int) -> Lengths:
    """So many classes, whose names are as long as ImageNet's: its quantiles."""
    known = inputs.LENGTHS[1000]
    ordered = np.repeat(sorted(known.suffix), [known.suffix[size] for size in sorted(known.suffix)])
    at = ((np.arange(classes) + 0.5) * len(ordered) / classes).astype(int)
    return Lengths("ImageNet", known.prefix, dict(collections.Counter(ordered[at].tolist())))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of the power law value = a size^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# ------------------------------------------------------------------------------------------------ the process


def peak() -> int:
    """The greatest memory so far, of the device where it has its own, in bytes."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use", 0) or timing.peak()


class Variant:
    """The step for so many images and draws."""

    def __init__(self, training: step.Training, features: np.ndarray, batch: int, draws: int):
        whole = training.batch(features)
        placed = lanes.stack_batches(training.mesh, [[whole]], len(features))
        self._table = placed._replace(batch=jax.tree.map(lambda x: x[:, :, :batch], placed.batch))
        # The step gives up its lanes, and others take theirs from the same.
        self._lanes = lanes.stack(training.mesh, [(training.state, training.constants)])
        self._step = lanes.compile_step(training.fixed._replace(num_samples=draws), self._lanes, self._table)
        self.temporary_mb = self._step.temporary_bytes / 1e6

    def __call__(self) -> None:
        self._lanes, parts = self._step(self._lanes, self._table)
        jax.block_until_ready((self._lanes, parts))


def serve(folder: str, classes: int, devices: int, variants: Sequence[tuple[int, int]]) -> None:
    """Works named by their number in `variants`, pairs of images and draws; 0 devices are those that are there."""
    if devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    placed = mesh.make_mesh()
    clip = pretrained.load_clip(folder, dtype=pretrained.tower_dtype("auto"), mesh=placed)
    prompts = inputs.make_prompts(lengths(classes), SIZES.text.vocab_size)
    numbers = inputs.make_numbers(SIZES, prompts, steps=0)
    training = step.Training(clip, prompts, numbers, inputs.LR)
    text = training.fixed.text
    rows = {name: mesh.shard(placed, getattr(text.prompts, name)) for name in ("suffix", "place", "owner")}
    text = mesh.replicate(placed, text)
    training.fixed = training.fixed._replace(text=text._replace(prompts=text.prompts._replace(**rows)))
    before = peak()
    works = {str(i): Variant(training, numbers.features, *pair) for i, pair in enumerate(variants)}
    start = time.perf_counter()
    for work in works.values():
        work()
    timing.serve(
        works,
        first=(time.perf_counter() - start) / len(works),
        temporary_mb={name: work.temporary_mb for name, work in works.items()},
        peak_mb=(peak() - before) / 1e6,
    )


def worker(folder: str, classes: int, variants: Sequence[tuple[int, int]], devices: int = 0) -> Worker:
    """The process that serves these."""
    return Worker("benchmarks.scaling", "--serve", folder, str(classes), str(devices), json.dumps(variants))


# ------------------------------------------------------------------------------------------------ the axes


def repeats(first: float) -> int:
    """After a first call that took so long."""
    return max(1, min(REPEATS, int(ENOUGH / first)))


def row(axis: str, size: int, times: Times, temporary_mb: float, **more: float | str) -> dict:
    """A line of a table."""
    return dict(axis=axis, size=size, seconds=times._asdict(), temporary_mb=temporary_mb, **more)


def along_classes(folder: str) -> list[dict]:
    """One process after another, so that each has the memory for itself."""
    rows = []
    for classes in CLASSES:
        with worker(folder, classes, [(inputs.BATCH, 1)]) as one:
            said = one.said
            taken = [one.seconds("0") for _ in range(repeats(said["first"]))]
        temporary = said["temporary_mb"]["0"]
        rows.append(row("classes", classes, timing.summarise(taken), temporary, peak_mb=said["peak_mb"]))
    return rows


def in_turn(
    axis: str, folder: str, classes: int, sizes: Sequence[int], variants: Sequence[tuple[int, int]]
) -> list[dict]:
    """Sizes of one number of classes, in one process."""
    with worker(folder, classes, variants) as one:
        tasks = {str(i): (one, str(i)) for i in range(len(variants))}
        times = timing.in_turn(tasks, repeats(one.said["first"]))
    return [row(axis, size, times[str(i)], one.said["temporary_mb"][str(i)]) for i, size in enumerate(sizes)]


def along_draws(folder: str) -> list[dict]:
    """k draws of image noise."""
    return in_turn("draws", folder, DRAWS_CLASSES, DRAWS, [(inputs.BATCH, k) for k in DRAWS])


def along_shots(folder: str) -> list[dict]:
    """What shots make of a batch, and of an epoch."""
    images = [SHOTS_CLASSES * shots for shots in SHOTS]
    sizes = [min(inputs.BATCH, n) for n in images]
    rows = in_turn("shots", folder, SHOTS_CLASSES, SHOTS, [(size, 1) for size in sizes])
    return [
        made | dict(batch=size, steps_per_epoch=n // size)
        for made, n, size in zip(rows, images, sizes, strict=True)
    ]


def along_devices(folder: str) -> list[dict]:
    """All on one CPU."""
    with contextlib.ExitStack() as stack:
        workers = {
            str(n): stack.enter_context(worker(folder, DEVICES_CLASSES, [(inputs.BATCH, 1)], n)) for n in DEVICES
        }
        count = repeats(max(one.said["first"] for one in workers.values()))
        times = timing.in_turn({name: (one, "0") for name, one in workers.items()}, count)
    return [row("devices", n, times[str(n)], workers[str(n)].said["temporary_mb"]["0"]) for n in DEVICES]


ALONG = dict(zip(AXES, (along_classes, along_draws, along_shots, along_devices), strict=True))


# ------------------------------------------------------------------------------------------------ what is told


def fits(rows: Sequence[dict]) -> dict[str, float]:
    """Exponents against classes, and what eight draws take to one."""
    found: dict[str, float] = {}
    classes = [row for row in rows if row["axis"] == "classes"]
    columns = {
        "time": lambda row: row["seconds"]["median"],
        "temporary": lambda row: row["temporary_mb"],
        "peak": lambda row: row["peak_mb"],
    }
    for name, column in columns.items():
        for part, some in (("", classes), (", tail", [row for row in classes if row["size"] >= TAIL])):
            if len(some) > 1 and all(column(row) > 0 for row in some):
                found[name + part] = exponent([row["size"] for row in some], [column(row) for row in some])
    draws = {row["size"]: row["seconds"]["median"] for row in rows if row["axis"] == "draws"}
    if draws:
        found["k=8 / k=1"] = draws[8] / draws[1]
    return found


def line(row: dict) -> list[str]:
    """Its cells."""
    ms = {name: 1e3 * x for name, x in row["seconds"].items()}
    more = f"{row['peak_mb']:,.0f}" if "peak_mb" in row else ""
    if "steps_per_epoch" in row:
        more = f"{row['steps_per_epoch']} x {row['batch']} images: {row['steps_per_epoch'] * ms['median']:,.0f} ms"
    time = "{median:,.0f} ({lowest:,.0f}-{highest:,.0f})".format(**ms)
    return [f"{row['size']:,}", time, f"{row['temporary_mb']:,.0f}", more]


def main() -> None:
    """Prints the tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=AXES)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)  # what the processes do
    chosen = parser.parse_args()
    if chosen.serve:
        folder, classes, devices, variants = chosen.serve
        return serve(folder, int(classes), int(devices), json.loads(variants))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        random_clip.write(Path(folder), SIZES)
        for axis in chosen.axes:
            found = ALONG[axis](folder)
            print(
                timing.table((axis, "step, ms", "temporary, MB", LAST.get(axis, "")), [line(row) for row in found])
            )
            print(flush=True)
            rows += found
    for name, value in fits(rows).items():
        target = TARGETS["k=8 / k=1" if name.startswith("k") else "exponent"]
        print(f"{name if name.startswith('k') else 'exponent of ' + name}: {value:.2f} (target: at most {target})")
    result = timing.machine() | dict(rows=rows)
    print(json.dumps(result | dict(fits=fits(rows))))
    if chosen.save:
        timing.keep(RESULT, result, ("axis", "size"))


if __name__ == "__main__":
    main()
