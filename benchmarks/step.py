"""Milliseconds and memory of a training step, beside the same step in plain PyTorch: python -m benchmarks.step.

The released configuration on a ViT-B/16 of random weights in float32, with prompts as long as those of real
datasets, and 32 images. `in` computes their features within the step; `out` is given them, as cached features are.
PyTorch runs all 77 tokens of every class (`benchmarks/torch_clip.py`). Each side of each row is a process of its
own, and all of one number of classes take turns. Times are the median, and in brackets the lowest and the highest;
the image's decoding is in none. `cached` is PyTorch with the image tower to ours without. Memory is the greatest
resident of the process, interpreter and loading included. Losses are those of the first steps on equal weights and
draws. With --save the line of JSON is also kept in results/step.json, beside rows of other numbers of classes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks import inputs, random_clip, timing
from benchmarks.inputs import Numbers
from pini_jax.clip import pretrained
from pini_jax.clip import prompts as layouts
from pini_jax.clip.prompts import Prompts
from pini_jax.config import Config, Optim
from pini_jax.core import mesh
from pini_jax.data import features
from pini_jax.methods.method import Batch, Text
from pini_jax.methods.optim import Length
from pini_jax.methods.pini import Injector
from pini_jax.noise import sites
from pini_jax.noise.draws import draw_replay
from pini_jax.train import lanes
from pini_jax.train.step import Constants, TrainState, update

RESULT = Path(__file__).parent / "results" / "step.json"
REPEATS = {10: 9, 37: 7, 100: 5, 397: 3, 1000: 3}
TOWERS = ("out", "in")  # of the step
SIDES = {"ours": ("benchmarks.step", "--serve"), "theirs": ("benchmarks.torch_clip", "step")}  # their workers
COLUMNS = (
    "classes (lengths of)",
    "image tower",
    "ours, ms",
    "PyTorch, ms",
    "ratio",
    "cached",
    "ours, MB",
    "PyTorch, MB",
    "loss, ours",
    "loss, PyTorch",
)


class Training:
    """The state of a training, and its step; as a run has it, in a single lane."""

    def __init__(self, clip: pretrained.Pretrained, prompts: Prompts, numbers: Numbers, lr: float):
        self.mesh = mesh.make_mesh()
        sizes = clip.text_tower.sizes
        theta = {key: part for key, part in clip.theta.items() if key != "image"}
        packed = layouts.lay_out(prompts, sizes, mesh.batch_shards(self.mesh))
        injector = Injector(clip.text_tower, sites.build_noise(Config().noise))
        # Plain CLIP's features of the classes are nothing to this noise.
        text = Text(np.zeros((1, len(packed.end), clip.embed_dim), np.float32), packed)
        self.fixed = lanes.Fixed(self.mesh, injector, 1, "auto", theta, text)
        constants = Constants(inputs.SEED, Optim(lr=lr, warmup_lr=lr), Length(epochs=100, per_epoch=1000))
        phi = jax.tree.map(jnp.array, numbers.phi)
        self.state = TrainState(jnp.zeros((), jnp.int32), phi, constants.optimiser(injector).init(phi))
        self.constants, self.labels = constants, numbers.labels
        self.lanes = lanes.stack(self.mesh, [(self.state, constants)])

    def batch(self, found: Float[Array, "b e"]) -> Batch:
        """The images that all steps see."""
        return Batch(found, self.labels, np.ones(len(self.labels), np.float32))

    def _table(self, found: Float[Array, "b e"]) -> lanes.BatchTable:
        return lanes.stack_batches(self.mesh, [[self.batch(found)]], len(self.labels))

    @functools.cached_property
    def _compiled(self) -> lanes.Step:
        empty = np.zeros((len(self.labels), self.fixed.method.text_tower.embed_dim), np.float32)
        return lanes.compile_step(self.fixed, self.lanes, self._table(empty))

    def step(self, found: Float[Array, "b e"]) -> float:
        """One update with fresh draws; its loss."""
        self.lanes, parts = self._compiled(self.lanes, self._table(found))
        return float(jax.block_until_ready((self.lanes, parts))[1].loss[0, 0])

    @functools.cached_property
    def _replay(self):
        method = self.fixed.method
        injector = dataclasses.replace(method, text_tower=method.text_tower.clone(remat=True))

        @jax.jit
        def one(state: TrainState, theta: dict, text: Text, batch: Batch, normals: dict):
            optimiser = self.constants.optimiser(injector)
            return update(injector, optimiser, state, theta, text, batch, draw_replay(normals))

        return one

    def replay(self, found: Float[Array, "b e"], normals: dict[str, np.ndarray]) -> float:
        """One update of the first state with given draws; its loss."""
        theta, text = self.fixed.theta, self.fixed.text
        self.state, parts = self._replay(self.state, theta, text, self.batch(found), normals)
        return float(parts.loss)


def serve(folder: Path, classes: int, tower: str) -> None:
    """The worker of a row: the losses of a few steps with given draws, then as many steps as are asked for."""
    sizes = inputs.VIT_B_16
    prompts = inputs.make_prompts(inputs.LENGTHS[classes], sizes.text.vocab_size)
    numbers = inputs.make_numbers(sizes, prompts, inputs.STEPS[classes])
    clip = pretrained.load_clip(str(folder))
    training, encode = Training(clip, prompts, numbers, inputs.LR), features.make_encoder(clip, mesh.make_mesh())

    def found() -> Float[Array, "b e"]:
        return encode(numbers.pixels) if tower == "in" else numbers.features

    losses = [training.replay(found(), normals) for normals in numbers.normals]
    training.step(found())
    timing.serve({"step": lambda: training.step(found())}, losses=losses)


def measure(classes: int, folder: str, repeats: int, with_torch: bool) -> list[dict]:
    """The rows of one number of classes."""
    chosen = [(side, tower) for tower in TOWERS for side in SIDES if with_torch or side == "ours"]
    with contextlib.ExitStack() as stack:
        workers = {}
        for side, tower in chosen:
            worker = timing.Worker(*SIDES[side], folder, str(classes), tower)
            workers[side, tower] = stack.enter_context(worker)
        able = {name: worker for name, worker in workers.items() if "refused" not in worker.said}
        times = timing.in_turn({name: (worker, "step") for name, worker in able.items()}, repeats)
    return [row(classes, tower, workers, times) for tower in TOWERS]


def row(classes: int, tower: str, workers: dict, times: dict) -> dict:
    """A line of the table."""
    made = dict(classes=classes, lengths=inputs.LENGTHS[classes].dataset, image_tower=tower)
    for side in SIDES:
        if worker := workers.get((side, tower)):
            made[side] = dict(worker.said)
        if taken := times.get((side, tower)):
            made[side] |= dict(ms={name: 1e3 * x for name, x in taken._asdict().items()}, peak_mb=worker.peak_mb)
    if ("theirs", tower) in times:
        made["ratio"] = times["theirs", tower].median / times["ours", tower].median
        if tower == "in":
            made["cached"] = times["theirs", "in"].median / times["ours", "out"].median
    return made


def line(row: dict) -> list[str]:
    """Its cells."""

    def cells(side: str) -> tuple[str, str, str]:
        said = row.get(side, {})
        if "ms" not in said:
            return said.get("refused", ""), "", ""
        ms = "{median:,.0f} ({lowest:,.0f}-{highest:,.0f})".format(**said["ms"])
        return ms, f"{said['peak_mb']:,.0f}", " ".join(f"{x:.5f}" for x in said["losses"])

    ratios = [f"{row[name]:.1f}" if name in row else "" for name in ("ratio", "cached")]
    pairs = zip(cells("ours"), cells("theirs"), strict=True)
    (ms, mb, losses) = (list(pair) for pair in pairs)
    return [f"{row['classes']:,} ({row['lengths']})", row["image_tower"], *ms, *ratios, *mb, *losses]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", choices=list(REPEATS), default=list(REPEATS))
    parser.add_argument("--repeats", type=int, help="instead of those that suit the number of classes")
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)  # what the processes of a row do
    chosen = parser.parse_args(arguments)
    if chosen.serve:
        folder, classes, tower = chosen.serve
        return serve(Path(folder), int(classes), tower)
    with_torch = importlib.util.find_spec("torch") is not None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        random_clip.write(Path(folder), inputs.VIT_B_16)
        for classes in chosen.classes:
            rows += measure(classes, folder, chosen.repeats or REPEATS[classes], with_torch)
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    found = timing.machine(*("torch", "transformers") if with_torch else ()) | dict(rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("classes", "image_tower"))


if __name__ == "__main__":
    main()
