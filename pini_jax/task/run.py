"""What a run reads and never changes: the data, the frozen half, the selection, the texts and the batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import mesh
from pini_jax.core.errors import InputError
from pini_jax.data import selection as fewshot
from pini_jax.data.batches import Batches
from pini_jax.data.datasets import classes, records, sources, splits
from pini_jax.evaluate.prediction import Images
from pini_jax.methods.method import NO_SUPPORT, Batch, Method, Support, Text
from pini_jax.methods.registry import Towers
from pini_jax.runs import folder as results
from pini_jax.task import frozen as backbones
from pini_jax.task.frozen import Backbone
from pini_jax.train.step import Constants, TrainState, init_state

LOG = logging.getLogger(__name__)
Reader = Callable[[int], Batch]


class Task(NamedTuple):
    """A classification: images of some classes, and the classes' texts.

    Attributes:
        data: its test images are what is classified.
        text: what the method reads.
        zero_shot: what plain CLIP does.
    """

    data: records.Dataset
    text: Text
    zero_shot: Text


class Shared(NamedTuple):
    """What runs have in common that differ in nothing but selection, seed and optimiser.

    Attributes:
        whole: the dataset before any selection.
        task: what is trained, but for the selection.
        others: what is classified besides, unseen in training.
    """

    mesh: jax.sharding.Mesh
    backbone: Backbone
    whole: records.Dataset
    task: Task
    others: dict[str, Task]
    method: Method


class Run(NamedTuple):
    """One config over what it shares with others.

    Attributes:
        data: its training and validation images are the selection.
    """

    config: Config
    workdir: Path
    shared: Shared
    data: records.Dataset
    batches: Batches

    @property
    def num_steps(self) -> int:
        """Steps of the whole training; none where `init` solves for all that is to be learned."""
        return 0 if self.shared.method.is_fitted else self.config.optim.epochs * self.batches.per_epoch

    @property
    def constants(self) -> Constants:
        """The numbers that its steps share."""
        seed, steps_per_epoch = np.array(self.config.seed, np.uint32), np.array(self.batches.per_epoch, np.int32)
        return Constants(seed, self.config.optim, steps_per_epoch)


def share(config: Config) -> Shared:
    """Loads the data, the frozen half and the texts.

    Raises:
        InputError: they cannot be used; the message says why.
    """
    devices = mesh.make(config.model_shards)
    data = {name: sources.open(name, config.data_dir) for name in (config.dataset, *config.transfer)}
    # First, so that what is wrong with a selection is known before the towers are loaded.
    trained, unseen = select(config, data[config.dataset])
    mesh.check_divisible(devices, config.batch_size)
    backbone = backbones.load(config, devices)
    unseen |= {name: data[name] for name in config.transfer}
    return Shared(
        mesh=devices,
        backbone=backbone,
        whole=data[config.dataset],
        task=make_task(config, backbone, trained),
        others={name: make_task(config, backbone, dataset) for name, dataset in unseen.items()},
        method=configs.make_method(config, Towers(backbone.text_tower, backbone.image_tower)),
    )


def select(config: Config, whole: records.Dataset) -> tuple[records.Dataset, dict[str, records.Dataset]]:
    """The few images that are trained on; and what is unseen: the new classes, where the base alone is trained."""
    selected = fewshot.select_as(config.dataset)(whole, config.shots, config.seed)
    if config.classes == "all":
        return selected, {}
    base, new = classes.split_classes(len(selected.class_names))
    if len(new) < 2:
        raise InputError(
            f"{selected.name} has {len(selected.class_names)} classes: base-to-new takes four or more"
        )
    return classes.restrict(selected, base), {"new": classes.restrict(selected, new)}


def make_task(config: Config, backbone: Backbone, data: records.Dataset) -> Task:
    """A method keeps the template that it was trained with: its noise belongs to those tokens.

    Texts that it does not encode itself are encoded once and for all.
    """
    text = backbone.text(config.template, config.dataset, data.class_names)
    zero_shot = Text(backbone.encode_text(backbone.text(config.zero_shot_template, data.name, data.class_names)))
    if "prompts" in configs.make_method(config).needs:
        return Task(data, Text(zero_shot.features, prompts=text), zero_shot)
    return Task(data, Text(backbone.encode_text(text)), zero_shot)


def plan(config: Config, workdir: Path, shared: Shared) -> Run:
    """The run of a config: its selection and its batches.

    Raises:
        InputError: there is no such selection.
    """
    data, _ = select(config, shared.whole)
    LOG.info(
        "%s: %d classes, %d training and %d test images (shots=%d, seed=%d, selection %.12s)",
        *(data.name, len(data.class_names), len(data.train), len(data.test)),
        *(config.shots, config.seed, selection_hash(data)),
    )
    # A batch, or all images there are, filled up to what the devices divide.
    size = min(config.batch_size, len(data.train) + -len(data.train) % mesh.batch_shards(shared.mesh))
    return Run(config, workdir, shared, data, Batches(len(data.train), size, config.views, config.seed))


def claim(run: Run) -> None:
    """Makes the folder the run's: config.json, selection.json, and split.json where the split is our own.

    Raises:
        InputError: the folder was made with other data.
    """
    results.claim(run.config, run.workdir)
    results.keep(run.workdir / "selection.json", describe_selection(run.data))
    if sources.of(run.config.dataset)[0].cut:
        results.write(run.workdir / "split.json", splits.rows(run.shared.whole), indent=None)


def selection_hash(data: records.Dataset) -> str:
    """Names the images that training and validation may see."""
    return records.list_hash(data.train + data.val)


def describe_selection(data: records.Dataset) -> dict:
    """What selection.json says: the images of training and validation, as rows of CoOp's files of splits."""
    rows = splits.rows(data._replace(test=()))
    return {"sha256": selection_hash(data), "test_sha256": records.list_hash(data.test)} | rows


def describe(run: Run) -> dict:
    """What result.json says of a run before it starts."""
    config = run.config
    return {
        "config_hash": configs.config_hash(config),
        "dataset": config.dataset,
        "clip": config.clip,
        "clip_sha256": run.shared.backbone.fingerprint,
        "method": config.method,
        "shots": config.shots,
        "seed": config.seed,
        "selection_sha256": selection_hash(run.data),
        "num_classes": len(run.data.class_names),
        "num_train": len(run.data.train),
        "num_test": len(run.data.test),
        "steps": run.num_steps,
    }


def initial_state(run: Run) -> TrainState:
    """The state before the first step, on every device."""
    shared = run.shared
    theta, text = shared.backbone.theta, shared.task.text
    state = jax.jit(init_state, static_argnums=0)(shared.method, theta, text, run.constants, support(run))
    return mesh.replicate(shared.mesh, state)


def support(run: Run) -> Support:
    """Features of the selection, where a method starts from them: of cached views, or else of evaluation."""
    if "support" not in run.shared.method.needs:
        return NO_SUPPORT
    backbone, selection = run.shared.backbone, run.data.train
    views = backbone.views(selection, run.config) or [backbone.encode(selection)]
    return Support(np.stack(views), _labels(selection))


def _labels(selection: Sequence[records.Record]) -> Int[np.ndarray, "m"]:
    return np.array([record.label for record in selection], np.int32)


def batch_reader(run: Run) -> Reader:
    """step -> its batch of features or pixels: from the cached views, or of fresh ones."""
    backbone, selection, config = run.shared.backbone, run.data.train, run.config
    labels = _labels(selection)
    cached: Sequence[Images]
    reads_pixels = "pixels" in run.shared.method.needs
    if not run.num_steps:
        cached = []  # nobody will read
    elif reads_pixels:
        backbone.check([selection])
        cached = [backbone.pixels(selection, config, view).held() for view in range(config.views)]
    else:
        cached = backbone.views(selection, config)
    fresh = backbone.pixels if reads_pixels else backbone.fresh

    def read(step: int) -> Batch:
        view, images, weights = run.batches.at(step)
        found = cached[view] if cached else fresh(selection, config, view)
        return Batch(np.asarray(found[images]), labels[images], weights)

    return read
