"""A whole run: data, features, training and evaluation, from a config to result.json."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import scipy.stats
from jaxtyping import Float, Int
from tqdm import tqdm

from pini_jax import backbone as backbones
from pini_jax import checkpoint, evaluate, export, mesh, metrics, optim, results, rng
from pini_jax import config as configs
from pini_jax.backbone import Backbone
from pini_jax.checkpoint import Checkpoints
from pini_jax.config import Config
from pini_jax.data import classes, fewshot, records, sources, splits
from pini_jax.data.batches import Batches
from pini_jax.errors import InputError
from pini_jax.noise import generators
from pini_jax.noise.injector import Injector, Text
from pini_jax.objective import Objective
from pini_jax.step import Batch, TrainState, init_state, train_step

PREFETCH = 4
LOG = logging.getLogger(__name__)
Reader = Callable[[int], Batch]
Step = Callable[[TrainState, Batch], tuple[TrainState, Objective]]


class Task(NamedTuple):
    """A classification: images of some classes, and the classes' texts.

    Attributes:
        data: its test images are what is classified.
        text: what the noise is added to.
        zero_shot: the texts of plain CLIP.
    """

    data: records.Dataset
    text: Text
    zero_shot: Text


class Run(NamedTuple):
    """Everything that a run reads and never changes.

    Attributes:
        whole: the dataset before the selection.
        task: what is trained: its training and validation images are the selection.
        others: what is classified besides, unseen in training.
    """

    config: Config
    mesh: jax.sharding.Mesh
    backbone: Backbone
    whole: records.Dataset
    task: Task
    others: dict[str, Task]
    injector: Injector
    batches: Batches
    optimiser: optax.GradientTransformation

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.config.optim.epochs * self.batches.per_epoch


def train_and_evaluate(config: Config, workdir: Path) -> dict:
    """Trains the noise of `config`, evaluates it, and returns what it writes to result.json.

    Run again in the same folder it goes on from the last checkpoint; a finished run is not repeated.

    Raises:
        InputError: the config, the weights, the data or the folder cannot be used; the message says why.
        OSError: the folder cannot be written.
    """
    if (result := results.finished(config, workdir)) is not None:
        LOG.info("%s is finished: nothing to do", workdir)
        return result
    clock = results.Clock()
    with clock.phase("setup"):
        run = set_up(config)
        LOG.info("encoding images")
        encoded = encode_splits(run)
        state, reader = initial_state(run), batch_reader(run)
        results.claim(config, workdir)
        results.keep(workdir / "selection.json", describe_selection(run.task.data))
        if sources.of(config.dataset)[0].cut:
            results.write(workdir / "split.json", splits.rows(run.whole), indent=None)
    LOG.info("compiling")
    with clock.phase("compile"):
        step = compile_step(run, state, reader(0))
    with Checkpoints(workdir / "checkpoints", run.batches.per_epoch, run.backbone.fingerprint) as checkpoints:
        state = checkpoints.restore(state) or state
        start = int(state.step)
        with clock.phase("train"):
            state = train(run, state, step, reader, checkpoints, workdir)
    LOG.info("evaluating")
    with clock.phase("evaluate"):
        evaluated = evaluate_run(run, state.phi, encoded)
    export.save(
        workdir / "injector.safetensors", state.phi, config, run.task.data.class_names, run.backbone.fingerprint
    )
    result = describe(run) | evaluated
    result |= {
        "trainable_parameters": sum(x.size for x in jax.tree.leaves(state.phi)),
        "checkpoint_bytes": checkpoint.num_bytes(state),
        "seconds": clock.seconds,
        "steps_per_second": (run.num_steps - start) / clock.seconds["train"],
        "device": results.device(),
        "versions": results.versions(),
    }
    results.write(workdir / "result.json", result)
    return result


# ------------------------------------------------------------------------------------------------ setup


def set_up(config: Config) -> Run:
    """Loads the data, the selection, the frozen half and the texts."""
    devices = mesh.make(config.model_shards)
    data = {name: sources.open(name, config.data_dir) for name in (config.dataset, *config.transfer)}
    selected = fewshot.select_as(config.dataset)(data[config.dataset], config.shots, config.seed)
    base, new = classes.split_classes(len(selected.class_names))
    if config.classes == "base" and len(new) < 2:
        raise InputError(
            f"{selected.name} has {len(selected.class_names)} classes: base-to-new takes four or more"
        )
    trained = classes.restrict(selected, base) if config.classes == "base" else selected
    unseen = {"new": classes.restrict(selected, new)} if config.classes == "base" else {}
    LOG.info(
        "%s: %d classes, %d training and %d test images (shots=%d, seed=%d, selection %.12s)",
        *(trained.name, len(trained.class_names), len(trained.train), len(trained.test)),
        *(config.shots, config.seed, selection_hash(trained)),
    )
    batches = Batches(
        len(trained.train), batch_size(config, devices, len(trained.train)), config.views, config.seed
    )
    backbone = backbones.load(config, devices)
    unseen |= {name: data[name] for name in config.transfer}
    return Run(
        config=config,
        mesh=devices,
        backbone=backbone,
        whole=data[config.dataset],
        task=make_task(config, backbone, trained),
        others={name: make_task(config, backbone, dataset) for name, dataset in unseen.items()},
        injector=Injector(backbone.text_tower, generators.build(config.noise)),
        batches=batches,
        optimiser=optim.optimiser(config.optim, batches.per_epoch),
    )


def make_task(config: Config, backbone: Backbone, data: records.Dataset) -> Task:
    """The noise keeps the template that it was trained with, to whose tokens it belongs."""
    return Task(
        data=data,
        text=backbone.text(config.template, config.dataset, data.class_names),
        zero_shot=backbone.text(config.zero_shot_template, data.name, data.class_names),
    )


def batch_size(config: Config, devices: jax.sharding.Mesh, num_images: int) -> int:
    """The images of a step: `batch_size`, or all there are, filled up to what `data` divides."""
    mesh.check_divisible(devices, config.batch_size)
    return min(config.batch_size, num_images + -num_images % mesh.batch_shards(devices))


def selection_hash(data: records.Dataset) -> str:
    """Names the images that training and validation may see."""
    return records.list_hash(data.train + data.val)


def describe_selection(data: records.Dataset) -> dict:
    """What selection.json says: the images of training and validation, as rows of CoOp's files of splits."""
    rows = splits.rows(data._replace(test=()))
    return {"sha256": selection_hash(data), "test_sha256": records.list_hash(data.test)} | rows


def initial_state(run: Run) -> TrainState:
    """The state before the first step, on every device."""
    state = init_state(run.injector, run.optimiser, run.task.text, rng.root(run.config.seed))
    return mesh.replicate(run.mesh, state)


def batch_reader(run: Run) -> Reader:
    """step -> its batch of features, split over the devices: from the cached views, or of fresh ones."""
    selection = run.task.data.train
    labels = np.array([record.label for record in selection], np.int32)
    cached = run.backbone.views(selection)

    def read(step: int) -> Batch:
        view, images, weights = run.batches.at(step)
        found = cached[view][images] if cached else run.backbone.fresh(selection, view, images)
        return Batch(*mesh.shard(run.mesh, (found, labels[images], weights)))

    return read


def compile_step(run: Run, state: TrainState, batch: Batch) -> Step:
    """(state, batch) -> (state, parts of the objective), compiled ahead; the state passed in is used up."""
    constants = mesh.replicate(run.mesh, (run.task.text, rng.root(run.config.seed)))

    def step(state, theta, batch, constants):
        text, root = constants
        return train_step(run.injector, run.optimiser, run.config.num_samples, state, theta, text, batch, root)

    # Left to itself the compiler may split the new state as it likes, and the next call wants it as it was.
    jitted = jax.jit(step, donate_argnums=0, out_shardings=mesh.replicated(run.mesh))
    compiled = jitted.lower(state, run.backbone.theta, batch, constants).compile()
    return lambda state, batch: compiled(state, run.backbone.theta, batch, constants)


# ------------------------------------------------------------------------------------------------ training


def train(
    run: Run, state: TrainState, step: Step, reader: Reader, checkpoints: Checkpoints, workdir: Path
) -> TrainState:
    """All steps from the state's to the last, with lines of metrics.jsonl and checkpoints on the way."""
    config, start, stop = run.config, int(state.step), run.num_steps
    if start:
        LOG.info("going on from step %d of %d", start, stop)
    learning_rate = optim.schedule(config.optim, run.batches.per_epoch)
    with (
        results.MetricsFile(workdir / "metrics.jsonl", keep_until=start) as lines,
        tqdm(total=stop, initial=start, unit="step", desc="training", dynamic_ncols=True) as bar,
    ):
        for done, batch in enumerate(prefetch(reader, start, stop), start + 1):
            state, parts = step(state, batch)
            bar.update()
            if done % config.log_every == 0 or done == stop:
                loss, accuracy = float(parts.loss), float(parts.accuracy)
                if not np.isfinite(loss):
                    raise InputError(f"training diverged: the loss of step {done} is {loss}; lower optim.lr")
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}", refresh=False)
                rate = float(learning_rate(done - 1))
                lines.write(step=done, loss=loss, accuracy=accuracy, learning_rate=rate)
            if done % config.checkpoint_every == 0 or done == stop:
                lines.flush()
                checkpoints.save(state)
    return state


def prefetch(reader: Reader, start: int, stop: int) -> Iterator[Batch]:
    """The batches of steps start to stop, made ahead in a thread while the device works."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: list[Future[Batch]] = []
        for step in range(start, stop + PREFETCH):
            if step < stop:
                waiting.append(pool.submit(reader, step))
            if step >= start + PREFETCH:
                yield waiting.pop(0).result()


# ------------------------------------------------------------------------------------------------ evaluation


class Split(NamedTuple):
    """Images to classify: their features and labels."""

    features: Float[np.ndarray, "b e"]
    labels: Int[np.ndarray, "b"]


def encode_splits(run: Run) -> dict[str, Split]:
    """The validation and test images, and the test images of the other tasks by name."""
    data = run.task.data
    found = {"val": data.val, "test": data.test} | {name: task.data.test for name, task in run.others.items()}
    return {
        name: Split(run.backbone.encode(images), np.array([record.label for record in images]))
        for name, images in found.items()
        if images
    }


def evaluate_run(run: Run, phi: dict, splits: dict[str, Split]) -> dict:
    """Metrics of plain CLIP and of the noise on the test images, on the validation images, and on other tasks."""
    plain = Injector(run.backbone.text_tower)

    def zero_shot(task: Task, split: Split) -> dict:
        return measure(run, plain, {}, task.zero_shot, split, "mean")

    def noise(task: Task, split: Split) -> dict:
        return {mode: measure(run, run.injector, phi, task.text, split, mode) for mode in evaluate.MODES}

    result: dict = {"zero_shot": zero_shot(run.task, splits["test"]), "test": noise(run.task, splits["test"])}
    result["val"] = noise(run.task, splits["val"]) if "val" in splits else None
    unseen = {
        name: {
            "num_classes": len(task.data.class_names),
            "num_test": len(task.data.test),
            "zero_shot": zero_shot(task, splits[name]),
            "test": noise(task, splits[name]),
        }
        for name, task in run.others.items()
    }
    if unseen:
        result["unseen"] = unseen
    if "new" in unseen:
        result["harmonic_mean"] = harmonic_means(result, unseen["new"])
    return result


def harmonic_means(base: dict, new: dict) -> dict:
    """2 / (1 / base + 1 / new) of the accuracies, of plain CLIP and by prediction mode."""
    pairs = {"zero_shot": (base["zero_shot"], new["zero_shot"])}
    pairs |= {mode: (base["test"][mode], new["test"][mode]) for mode in evaluate.MODES}
    return {name: float(scipy.stats.hmean([x["accuracy"] for x in pair])) for name, pair in pairs.items()}


def measure(run: Run, injector: Injector, phi: dict, text: Text, split: Split, mode: str) -> dict:
    """Metrics of a split."""
    config, theta = run.config, run.backbone.theta
    predicted = evaluate.predict(injector, phi, theta, text, split.features, mode, config.num_draws, config.seed)
    return metrics.metrics(predicted, split.labels)._asdict()


def describe(run: Run) -> dict:
    """What result.json says of a run before it starts."""
    config, data = run.config, run.task.data
    return {
        "config_hash": configs.config_hash(config),
        "dataset": config.dataset,
        "clip": config.clip,
        "clip_sha256": run.backbone.fingerprint,
        "method": "pini",
        "shots": config.shots,
        "seed": config.seed,
        "selection_sha256": selection_hash(data),
        "num_classes": len(data.class_names),
        "num_train": len(data.train),
        "num_test": len(data.test),
        "steps": run.num_steps,
    }
