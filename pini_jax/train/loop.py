"""The whole training, of one run or of several over one frozen CLIP: from configs to result.json."""

from __future__ import annotations

import functools
import logging
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from pini_jax.config import Config
from pini_jax.core import mesh as meshes
from pini_jax.core import runtime
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import records
from pini_jax.evaluate import metrics
from pini_jax.evaluate import prediction as evaluate
from pini_jax.evaluate.prediction import Images, Predictions
from pini_jax.methods.method import Batch, Method, Text, Variables
from pini_jax.runs import folder as results
from pini_jax.runs import injector as export
from pini_jax.task.run import Reader, Run, Task, batch_reader, claim, describe, initial_state, plan, share
from pini_jax.train import checkpoint
from pini_jax.train import lanes as program
from pini_jax.train.lanes import Frozen, Lanes, Step
from pini_jax.train.recorder import Ledger
from pini_jax.train.step import Constants, TrainState
from pini_jax.train.timetable import Turn, num_lanes, timetable

PREFETCH = 4
LOG = logging.getLogger(__name__)


def train_and_evaluate(config: Config, workdir: Path) -> dict:
    """Trains the method of `config`, evaluates it, and returns what it writes to result.json.

    Run again in the same folder it goes on from the last checkpoint; a finished run is not repeated.

    Raises:
        InputError: the config, the weights, the data or the folder cannot be used; the message says why.
        OSError: the folder cannot be written.
    """
    if (result := results.finished(config, workdir)) is not None:
        return result
    return train_together({workdir: config})[workdir]


def train_together(configs: Mapping[Path, Config]) -> dict[Path, dict]:
    """The same for unfinished runs that differ in nothing but shots, seed and optimiser; results by their folders.

    They share the frozen half and one compiled step, which takes them side by side where that is faster.

    Raises:
        InputError: as above, for any of them, before one is begun; or some diverged, and the others are evaluated.
    """
    clock = results.Clock()
    with ExitStack() as stack:
        with clock.phase("setup"):
            shared = share(next(iter(configs.values())))
            runs = [plan(config, workdir, shared) for workdir, config in configs.items()]
            inputs = [(run, batch_reader(run), initial_state(run)) for run in runs]
            # Nothing is written before all that can be wrong has been tried.
            shared.backbone.check([images for run in runs for images in to_classify(run).values()])
            for run in runs:
                claim(run)
            entries = [Entry(run, read, stack.enter_context(Ledger(run, state))) for run, read, state in inputs]
        with clock.phase("compile"):
            compiled = compile_lanes(entries) if any(entry.span for entry in entries) else None
        if compiled is not None:
            train(entries, *compiled)
    LOG.info("evaluating")
    found = {entry.run.workdir: finish(entry, clock.seconds) for entry in entries if entry.ledger.problem is None}
    if problems := [entry.ledger.problem for entry in entries if entry.ledger.problem is not None]:
        raise InputError("; ".join(problems))
    return found


class Entry(NamedTuple):
    """A run that trains: what it reads at a step, and where it writes."""

    run: Run
    read: Reader
    ledger: Ledger

    @property
    def span(self) -> range:
        """The steps that it has still to take."""
        return range(self.ledger.start, self.run.num_steps)

    @property
    def lane(self) -> tuple[TrainState, Constants]:
        """What the compiled step starts with."""
        return self.ledger.state, self.run.constants


def finish(entry: Entry, seconds: Mapping[str, float]) -> dict:
    """Evaluates what a run has learned, and writes injector.safetensors and result.json."""
    run, ledger, clock = entry.run, entry.ledger, results.Clock()
    with clock.phase("evaluate"):
        evaluated = evaluate_run(run, ledger.state.variables)
    export_run(run, ledger.state.variables)
    result = describe(run) | evaluated
    result |= {
        "trainable_parameters": sum(x.size for x in jax.tree.leaves(ledger.state.phi)),
        "checkpoint_bytes": checkpoint.num_bytes(ledger.state),
        "seconds": dict(seconds) | {"train": ledger.seconds} | clock.seconds,
        "steps_per_second": len(entry.span) / ledger.seconds if entry.span else 0.0,
        "device": results.device(),
        "versions": results.versions(),
    }
    results.write(run.workdir / "result.json", result)
    return result


def export_run(run: Run, variables: Variables) -> None:
    """Writes injector.safetensors; and the classes' embeddings, where they and plain image features are enough."""
    shared, names = run.shared, run.data.class_names
    theta, fingerprint = shared.backbone.theta, shared.backbone.fingerprint
    export.save(run.workdir / "injector.safetensors", variables, run.config, names, fingerprint)
    if not shared.method.moves_images:
        adapted = shared.method.adapt(variables, theta)
        embeddings = evaluate.encode_text(shared.method, variables, adapted, shared.task.text)[0]
        scale = float(np.exp(theta["logit_scale"]))
        export.save_embeddings(run.workdir / "classes.safetensors", meshes.fetch(embeddings), scale, names)


# ------------------------------------------------------------------------------------------------ training


def compile_for(entries: Sequence[Entry], first: Sequence[int]) -> tuple[Step, Lanes, Batch]:
    """The step of as many lanes as there are numbers of runs in `first`, with their lanes and batches."""
    shared, config = entries[0].run.shared, entries[0].run.config
    theta, text = shared.backbone.theta, shared.task.text
    frozen = Frozen(shared.mesh, shared.method, config.num_samples, config.remat, theta, text)
    lanes = program.stack(shared.mesh, [entries[i].lane for i in first])
    batch = read_batches(entries, [Turn(i, entries[i].ledger.start, opens=True) for i in first])
    return program.compile_step(frozen, lanes, batch), lanes, batch


def compile_lanes(entries: Sequence[Entry]) -> tuple[Step, Lanes]:
    """The compiled step and the lanes that it starts with: as many as take a run's step in the least time."""
    LOG.info("compiling")
    spans = [entry.span for entry in entries]

    def compiled(width: int) -> tuple[Step, Lanes, Batch]:
        return compile_for(entries, [turn.run for turn in next(timetable(spans, width), ()) if turn] or [0])

    alone = compiled(1)
    width = num_lanes(spans)
    while width > 1 and not program.fits(alone[0], width):
        width -= 1
    if width > 1 and (taken := program.seconds(*alone)) < program.LONG:
        together = compiled(width)
        ticks = sum(1 for _ in timetable(spans, width))
        if ticks * program.seconds(*together) < sum(map(len, spans)) * taken:
            LOG.info("%d runs in %d lanes side by side", len(entries), width)
            return together[:2]
    return alone[:2]


def read_batches(entries: Sequence[Entry], turns: Sequence[Turn | None]) -> Batch:
    """The batches of a tick, lane by lane; a lane without a run gets another one's."""
    found = [turn and entries[turn.run].read(turn.step) for turn in turns]
    someones = next(batch for batch in found if batch)
    size = max(entry.run.batches.batch_size for entry in entries)
    return program.stack_batches(entries[0].run.shared.mesh, [batch or someones for batch in found], size)


def train(entries: Sequence[Entry], step: Step, lanes: Lanes) -> None:
    """All steps of all runs, with lines of metrics.jsonl and checkpoints on the way."""
    mesh, spans = entries[0].run.shared.mesh, [entry.span for entry in entries]
    total = sum(entry.run.num_steps for entry in entries)
    with progress(total, done=total - sum(map(len, spans))) as bar:
        ticks = timetable(spans, program.width(lanes))
        for turns, batch in prefetch(lambda turns: read_batches(entries, turns), ticks):
            for lane, turn in enumerate(turns):
                if turn and turn.opens:
                    entries[turn.run].ledger.open()
                    lanes = program.replace(lanes, lane, program.stack(mesh, [entries[turn.run].lane]))
            if all(turn is None or entries[turn.run].ledger.problem for turn in turns):
                continue
            runtime.raise_if_interrupted()
            lanes, parts = step(lanes, batch)
            bar.update(sum(turn is not None for turn in turns))
            for lane, turn in enumerate(turns):
                if turn and (ledger := entries[turn.run].ledger).due(turn.step + 1):
                    loss, accuracy = float(parts.loss[lane]), float(parts.accuracy[lane])
                    bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}", refresh=False)
                    ledger.write(turn.step + 1, loss, accuracy, functools.partial(program.take, lanes, lane))
            if all(entry.ledger.problem for entry in entries):
                break


def progress(total: int, done: int) -> tqdm:
    """A bar of steps, in the first process."""
    hidden = jax.process_index() > 0
    return tqdm(total=total, initial=done, unit="step", desc="training", dynamic_ncols=True, disable=hidden)


def prefetch(
    read: Callable[[Sequence[Turn | None]], Batch], ticks: Iterator[Sequence[Turn | None]]
) -> Iterator[tuple[Sequence[Turn | None], Batch]]:
    """Every tick with its batches, made ahead in a thread while the device works."""
    if jax.process_count() > 1:
        # Processes must start what they compute together in one order.
        yield from ((turns, read(turns)) for turns in ticks)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[tuple[Sequence[Turn | None], Future[Batch]]] = deque()
        for turns in ticks:
            waiting.append((turns, pool.submit(read, turns)))
            if len(waiting) > PREFETCH:
                first, batch = waiting.popleft()
                yield first, batch.result()
        for first, batch in waiting:
            yield first, batch.result()


# ------------------------------------------------------------------------------------------------ evaluation


class Split(NamedTuple):
    """Images to classify, as the method and plain CLIP read them, and their labels."""

    images: Images
    features: Images
    labels: Int[np.ndarray, "b"]


def to_classify(run: Run) -> dict[str, Sequence[records.Record]]:
    """The validation and test images, and the test images of the other tasks by name."""
    found = {"val": run.data.val, "test": run.data.test}
    found |= {name: task.data.test for name, task in run.shared.others.items()}
    return {name: images for name, images in found.items() if images}


def read_splits(run: Run) -> dict[str, Split]:
    """All that is classified."""
    backbone, found = run.shared.backbone, {}
    for name, images in to_classify(run).items():
        features = backbone.encode(images)
        reads_pixels = "pixels" in run.shared.method.needs
        read = backbone.pixels(images, None, 0) if reads_pixels else features
        found[name] = Split(read, features, np.array([record.label for record in images]))
    return found


def evaluate_run(run: Run, variables: Variables) -> dict:
    """Metrics of plain CLIP and of the method on the test images, on the validation images, and on other tasks."""
    shared, splits = run.shared, read_splits(run)

    def by_mode(task: Task, split: Split) -> dict[str, Predictions]:
        """Of the method; what draws nothing predicts once for all modes."""
        modes = evaluate.MODES if shared.method.is_random else evaluate.MODES[:1]
        found = {mode: predict(run, shared.method, variables, task.text, split.images, mode) for mode in modes}
        return dict.fromkeys(evaluate.MODES, found["mean"]) | found

    def measure(task: Task, split: Split) -> dict:
        """All that is reported of test images."""
        zero_shot, found = predict_zero_shot(run, task, split), by_mode(task, split)
        expected = found["marginal"].expected
        return {
            "zero_shot": of_split(zero_shot, split),
            "test": {mode: of_split(predicted, split) for mode, predicted in found.items()},
            "information": metrics.information(zero_shot.log_probabilities, expected, split.labels)._asdict(),
            "reliability": {
                name: of_confidence(predicted, split.labels)
                for name, predicted in (("zero_shot", zero_shot), *found.items())
            },
        }

    result: dict = measure(shared.task, splits["test"])
    val = splits.get("val")
    result["val"] = val and {mode: of_split(found, val) for mode, found in by_mode(shared.task, val).items()}
    unseen = {
        name: {"num_classes": len(task.data.class_names), "num_test": len(task.data.test)}
        | measure(task, splits[name])
        for name, task in shared.others.items()
    }
    if unseen:
        result["unseen"] = unseen
    if "new" in unseen:
        result["harmonic_mean"] = harmonic_means(result, unseen["new"])
    return result


def of_split(predicted: Predictions, split: Split) -> dict:
    """Metrics of a split."""
    return metrics.metrics(predicted.log_probabilities, split.labels)._asdict()


def of_confidence(predicted: Predictions, labels: Int[np.ndarray, "b"]) -> dict:
    """What a reliability diagram shows."""
    log_p = predicted.log_probabilities
    return metrics.reliability(np.exp(log_p.max(-1)), log_p.argmax(-1) == labels)._asdict()


def harmonic_means(base: dict, new: dict) -> dict:
    """2 / (1 / base + 1 / new) of the accuracies, of plain CLIP and by prediction mode."""
    pairs = {"zero_shot": (base["zero_shot"], new["zero_shot"])}
    pairs |= {mode: (base["test"][mode], new["test"][mode]) for mode in evaluate.MODES}
    return {name: statistics.harmonic_mean([x["accuracy"] for x in pair]) for name, pair in pairs.items()}


def predict_zero_shot(run: Run, task: Task, split: Split) -> Predictions:
    """By plain CLIP."""
    return predict(run, Method(), Variables({}), task.zero_shot, split.features, "mean")


def predict(run: Run, method: Method, variables: Variables, text: Text, images: Images, mode: str) -> Predictions:
    """Of a split, with the run's draws and devices."""
    theta, config = run.shared.backbone.theta, run.config
    return evaluate.predict(
        *(method, variables, theta, text, images, mode),
        *(config.num_draws, config.seed),
        mesh=run.shared.mesh,
    )
