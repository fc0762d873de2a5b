"""Seconds of the parts of a sweep on the device at hand: python -m benchmarks.parts paper.

`paper` is the released configuration on a ViT-B/16 of random weights, with prompts as long as those of datasets of
10, 37, 100, 397 and 1,000 classes and photographs of 500x375 pixels; `digits` is configs/digits.py. Prints JSON of
`benchmarks.costs.Costs`, in seconds of the clock (`wall`) and of all cores (`cpu`). Opening and closing a run is
what whole runs of one step take, less what is counted apart. Workers that share a machine are measured by as many
processes at once (`measure`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from benchmarks import costs, data, inputs, population, random_clip
from benchmarks.costs import ANY, Costs, Facts, Point
from benchmarks.step import Training
from pini_jax.clip import pretrained
from pini_jax.config import Config
from pini_jax.core import config_file, mesh, runtime
from pini_jax.data.datasets.records import Record
from pini_jax.data.datasets.unreadable import refuse_unreadable
from pini_jax.evaluate import prediction, predictions, result
from pini_jax.evaluate.prediction import MODES, Drawn, Predictions
from pini_jax.evaluate.predictions import Kept
from pini_jax.methods.method import Method, Text, Variables
from pini_jax.runs import experiment
from pini_jax.runs import population as populations
from pini_jax.task.frozen import Frozen, View, load_towers
from pini_jax.task.run import Shared, plan, share
from pini_jax.train import lanes, loop, memory
from pini_jax.train.checkpoint import Checkpoints
from pini_jax.train.step import TrainState, initial_state

ROUND = 1.0  # seconds of a measurement, at least
IMAGES = 64  # that are read and encoded
ANSWERED = 256  # images that are answered: a batch
LANES = 6  # that units of 15 runs fill
FIXED, RUNS = 37, 4  # classes of the runs that are opened and closed, and how many
CLOCKS = ("wall", "cpu")
OWNERS = dict.fromkeys(("config_hash", "clip_sha256", "selection_sha256", "test_sha256"), "")
Pair = Float[np.ndarray, "2"]  # seconds of the clock, and of all cores


def spend(call: Callable[[], object]) -> Pair:
    """What a call takes."""

    def now() -> Pair:
        return np.array([time.perf_counter(), time.process_time()])

    before = now()
    call()
    return now() - before


def often(call: Callable[[], object]) -> Pair:
    """The mean of calls, after one that warms up."""
    call()
    taken = [spend(call)]
    while sum(pair[0] for pair in taken) < ROUND:
        taken.append(spend(call))
    return np.mean(taken, axis=0)


# ------------------------------------------------------------------------------------------------ towers, answers


def room() -> int:
    """Tokens that the lanes of a step fill at most, here."""
    return memory.CPU_TOKENS if jax.default_backend() == "cpu" else ANY


def time_step(training: Training, found: Float[Array, "b e"], width: int) -> Pair:
    """A step of one of so many runs side by side."""
    state = lanes.stack(training.mesh, [(training.state, training.constants)] * width)
    table = lanes.stack_batches(training.mesh, [[training.batch(found)] * width], len(found))
    compiled = lanes.compile_step(training.fixed, state, table)

    def call() -> None:
        nonlocal state
        state, parts = compiled(state, table)
        jax.block_until_ready((state, parts))

    return often(call) / width


def time_text(method: Method, variables: Variables, theta: dict, text: Text) -> Pair:
    """The classes' prompts, with a draw of the noise."""
    key = jax.random.key(0)
    return often(
        lambda: jax.block_until_ready(prediction.encode_text_draws(method, variables, theta, text, 1, key))
    )


def time_answer(method: Method, variables: Variables, theta: dict, classes: int, width: int) -> dict[str, Pair]:
    """An image of random features, classified in every mode; and measured and written."""
    chance, key = np.random.default_rng(inputs.SEED), jax.random.key(0)
    images = chance.standard_normal((ANSWERED, width), np.float32)
    texts = chance.standard_normal((Config().num_draws, classes, width), np.float32)
    drawn = {mode: Drawn(theta, texts[:1], None if mode == "mean" else key) for mode in MODES}
    drawn["marginal"] = drawn["marginal"]._replace(text=texts)

    def predict() -> dict[str, Predictions]:
        plain = prediction.predict_drawn(result.PLAIN, Variables({}), drawn["mean"], images)
        return {"zero_shot": plain} | {
            mode: prediction.predict_drawn(method, variables, of_mode, images) for mode, of_mode in drawn.items()
        }

    found = predict()
    with tempfile.TemporaryDirectory() as folder:
        calls = {"predict": predict, "answer": lambda: measure_answers(found, classes, Path(folder))}
        return {name: often(call) / ANSWERED for name, call in calls.items()}


def measure_answers(found: Mapping[str, Predictions], classes: int, folder: Path) -> None:
    """What a run does with its predictions."""
    ids, labels = [str(i) for i in range(ANSWERED)], np.arange(ANSWERED) % classes
    answers = {mode: predictions.answers(ids, labels, x, 1.0) for mode, x in found.items()}
    names = [str(i) for i in range(classes)]
    kept = Kept({"test": answers}, {"test": names})
    result.measure_splits(kept)
    predictions.write_predictions(folder / "predictions.parquet", kept)


def time_images(frozen: Frozen, records: Sequence[Record]) -> dict[str, Pair]:
    """Looking at an image, reading it for training and for evaluation, and encoding it."""
    few, ids = records[:IMAGES], np.arange(min(IMAGES, len(records)))
    training = View(data.AUGMENT, 0, 0)

    def read(view: View | None) -> np.ndarray:
        return frozen.images(few, "pixels", view, kept=False)[ids]

    def encode(pixels: np.ndarray) -> object:
        return jax.block_until_ready(frozen.encode(pixels))

    calls = {
        "look": lambda: refuse_unreadable(few),
        "train_view": lambda: read(training),
        "test_view": lambda: read(None),
        "tower": functools.partial(encode, read(None)),
    }
    return {name: often(call) / len(few) for name, call in calls.items()}


def common(state: TrainState) -> dict[str, Any]:
    """What depends on no dataset."""
    return dict(room=room(), overlaps=jax.default_backend() != "cpu", save=time_save(state))


def time_save(state: TrainState) -> Pair:
    """A checkpoint."""
    steps = itertools.count(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(Path(folder) / "checkpoints", 1, OWNERS, lambda step: True) as checkpoints,
    ):
        return often(lambda: checkpoints.save(state._replace(step=np.int32(next(steps)))))


# ------------------------------------------------------------------------------------------------ whole runs


def time_runs(configs: Sequence[Config], facts: Facts, known: dict[str, Any]) -> dict[str, Pair]:
    """What is left of whole runs, short ones and each of its own, when what is known is taken away."""

    def left(config: Config, first: bool = False) -> Pair:
        with tempfile.TemporaryDirectory() as folder:
            taken = spend(lambda: experiment.train_together({Path(folder) / "run": config}))
        nothing = Costs(**known, **dict.fromkeys(("unit", "compile", "run"), np.zeros(2)))
        return taken - sum(costs.parts(costs.describe([config], facts, known["room"]), nothing, first).values())

    begun = left(configs[0], first=True)  # programs are compiled, or fetched from the cache
    again = np.median([left(config) for config in configs[1:]], axis=0)
    unit = np.median([spend(lambda: share(configs[0])) for _ in configs[1:]], axis=0)
    return dict(unit=unit, run=again - unit, compile=begun - again)


def short(config: Config) -> list[Config]:
    """Runs of one step, and one draw in prediction; the first begins, and the others are timed."""
    few = dataclasses.replace(config, shots=1, num_draws=1, optim=dataclasses.replace(config.optim, epochs=1))
    return seeds(few, RUNS)


def paper(folder: Path) -> dict[str, Any]:
    """Of the released configuration."""
    whole = folder / "whole"
    whole.mkdir()
    random_clip.write(whole, inputs.VIT_B_16)
    clip, points = pretrained.load_clip(str(whole)), {"step": [], "text": [], "predict": [], "answer": []}
    for classes, lengths in inputs.LENGTHS.items():
        prompts = inputs.make_prompts(lengths, inputs.VIT_B_16.text.vocab_size)
        numbers = inputs.make_numbers(inputs.VIT_B_16, prompts, steps=0)
        training = Training(clip, prompts, numbers, inputs.LR)
        given = training.fixed.method, Variables(training.state.phi), training.fixed.theta
        size = costs.tokens_of(training.fixed.text.prompts)
        width = max(1, min(LANES, room() // size))
        points["step"].append(Point(size, time_step(training, numbers.features, width)))
        points["text"].append(Point(size, time_text(*given, training.fixed.text)))
        for name, pair in time_answer(*given, classes, clip.embed_dim).items():
            points[name].append(Point(classes, pair))
    known = common(training.state) | points
    known |= time_images(
        load_towers(Config(clip=str(whole)), mesh.make_mesh()), data.write_photographs(folder, "500x375", IMAGES)
    )
    (config,) = population.members(population.Case("", "", FIXED, 1, {"seed": (1,)}, 0, 1, 1), folder)
    facts = Facts(FIXED, costs.tokens_of(costs.packed(inputs.LENGTHS[FIXED])), FIXED * population.TEST_IMAGES)
    small = known | dict.fromkeys(("look", "train_view", "test_view", "tower"), np.zeros(2))  # images are tiny
    return known | time_runs(short(config), facts, small)


def digits(folder: Path) -> dict[str, Any]:
    """Of configs/digits.py, with two runs side by side."""
    config = populations.members(config_file.load_config("digits"))[0].config
    shared = share(config)
    facts, state = facts_of(shared), initial_state(plan(config, folder, shared))
    given = shared.method, state.variables, shared.frozen.theta
    answers = time_answer(*given, facts.classes, shared.task.text.features.shape[-1])
    known = common(state) | {name: [Point(facts.classes, pair)] for name, pair in answers.items()}
    known |= dict(
        text=[Point(facts.tokens, time_text(*given, shared.task.text))],
        step=[Point(facts.tokens, time_loop(seeds(config, 2), shared, facts, folder))],
    )
    known |= time_images(shared.frozen, shared.whole.train)
    known["step"] = [Point(size, taken - known["save"] / config.checkpoint_every) for size, taken in known["step"]]
    return known | time_runs(short(config), facts, known)


def time_loop(configs: Sequence[Config], shared: Shared, facts: Facts, folder: Path) -> Pair:
    """A run's step within its loop: with batches, lines and checkpoints."""
    with population.entered(shared, configs, folder) as group:
        compiled = loop.compile_group(group)
        return spend(lambda: loop.train(group, *compiled)) / costs.describe(configs, facts, room()).steps


def facts_of(shared: Shared) -> Facts:
    """Of the dataset that runs share."""
    assert shared.task.text.prompts is not None
    return Facts(len(shared.whole.class_names), costs.tokens_of(shared.task.text.prompts), len(shared.whole.test))


def seeds(config: Config, count: int) -> list[Config]:
    """The same with so many seeds, which no other process has: features are in no cache."""
    return [dataclasses.replace(config, seed=count * os.getpid() + i) for i in range(count)]


# ------------------------------------------------------------------------------------------------ processes

SUBJECTS = {"paper": paper, "digits": digits}


def of_clock(found: Mapping[str, Any], number: int) -> Costs:
    """One of the two seconds of everything."""

    def chosen(value: Any) -> Any:
        if isinstance(value, list):
            return [Point(size, float(pair[number])) for size, pair in value]
        return float(value[number]) if isinstance(value, np.ndarray) else value

    return Costs(**{name: chosen(value) for name, value in found.items()})


def measure(subject: str, processes: int = 1) -> dict[str, Costs]:
    """By the clock: what so many processes find on average that measure at once, and share what workers share."""
    command = [sys.executable, "-m", "benchmarks.parts", subject]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise ChildProcessError(f"{' '.join(command)} failed")
    found = [json.loads(text) for text in printed]
    mean = jax.tree.map(lambda *x: statistics.fmean(x) if isinstance(x[0], float) else x[0], *found)
    return {clock: costs.from_dict(mean[clock]) for clock in CLOCKS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=list(SUBJECTS))
    chosen = parser.parse_args(arguments)
    runtime.prepare()
    logging.getLogger("pini_jax").setLevel(logging.ERROR)
    bars = contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, bars:
        found = SUBJECTS[chosen.subject](Path(folder))
    print(json.dumps({clock: dataclasses.asdict(of_clock(found, i)) for i, clock in enumerate(CLOCKS)}))


if __name__ == "__main__":
    main()
