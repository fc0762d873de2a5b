"""What a run reads and never changes: the data, the frozen half, the selection, the texts and the batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import mesh as meshes
from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed
from pini_jax.data import selection
from pini_jax.data.batches import Batches
from pini_jax.data.datasets import classes, records, sources
from pini_jax.data.datasets.records import Dataset, Record
from pini_jax.data.datasets.unreadable import set_aside
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Batch, Method
from pini_jax.methods.optim import Length
from pini_jax.task import frozen as frozen_halves
from pini_jax.task import task as tasks
from pini_jax.task.frozen import Frozen, Images, View
from pini_jax.task.task import Task

Reader = Callable[[int], Batch]  # step -> its batch


class Shared(NamedTuple):
    """What runs share that differ only in selection, seed and optimiser.

    Attributes:
        whole: the dataset before any selection.
        left_out: {id: why} of its images that cannot be read.
        task: what is trained, but for the selection.
        unseen: what is classified besides, unseen in training.
    """

    mesh: jax.sharding.Mesh
    frozen: Frozen
    whole: Dataset
    left_out: Mapping[str, str]
    task: Task
    unseen: Mapping[str, Task]
    method: Method


class Run(NamedTuple):
    """A config with its data, its batches and what it shares with other runs.

    Attributes:
        data: its training and validation images are the selection.
    """

    config: Config
    workdir: Path
    shared: Shared
    data: Dataset
    batches: Batches

    @property
    def num_steps(self) -> int:
        """Steps of the whole training; none if `init` solves for everything."""
        return 0 if self.shared.method.traits.is_fitted else self.config.num_steps(self.batches.per_epoch)

    @property
    def length(self) -> Length:
        """The length of the whole training, as a compiled step takes it."""
        epochs, per_epoch = self.num_steps / self.batches.per_epoch, self.batches.per_epoch
        return Length(np.array(epochs, np.float32), np.array(per_epoch, np.int32))

    def __str__(self) -> str:
        data = self.data
        sizes = f"{len(data.class_names)} classes, {len(data.train)} training and {len(data.test)} test images"
        chosen = f"shots={self.config.shots}, seed={self.config.seed}, selection {self.selection_hash[:12]}"
        return f"{data.name}: {sizes} ({chosen})"

    @property
    def selection_hash(self) -> str:
        """Identifies the images that training and validation may see."""
        return records.list_hash(self.data.train + self.data.val)


def share(config: Config, clip: str = "") -> Shared:
    """Loads the data, the frozen half and the texts.

    Args:
        clip: what names the weights more closely than the config does, such as by a commit of the hub.

    Raises:
        InputError: they cannot be used; the message says why.
    """
    mesh = meshes.make_mesh(config.model_shards)
    opened = {name: open_dataset(config, name) for name in (config.dataset, *config.transfer)}
    data = {name: dataset for name, (dataset, _) in opened.items()}
    # First, so that what is wrong with a selection is known before the towers are loaded.
    trained, new = select_images(config, data[config.dataset])
    meshes.check_divisible(mesh, config.batch_size)
    check_alike("another config", config.hash)
    check_alike("other images", *(records.list_hash(images) for images in data[config.dataset][2:]))
    frozen = frozen_halves.load_frozen(dataclasses.replace(config, clip=clip or config.clip), mesh)
    frozen = frozen.trained_on(trained.train)
    check_alike("another CLIP", frozen.fingerprint)
    unseen = {name: tasks.make_task(config, frozen, data[name], name) for name in config.transfer}
    if new is not None:
        unseen = {"new": tasks.make_task(config, frozen, new, config.dataset)} | unseen
    return Shared(
        mesh=mesh,
        frozen=frozen,
        whole=data[config.dataset],
        left_out=opened[config.dataset][1],
        task=tasks.make_task(config, frozen, trained, config.dataset),
        unseen=unseen,
        method=configs.make_method(config, frozen.towers),
    )


def check_alike(what: str, *hashes: str) -> None:
    """Raises InputError if another process of the job has other hashes: it would compute something else."""
    if others := meshes.processes_that_differ(" ".join(hashes)):
        raise InputError(f"process {listed(map(str, others))} has {what} than process 0")


def open_dataset(config: Config, name: str) -> tuple[Dataset, dict[str, str]]:
    """A dataset, and {id: why} of the user's own unreadable images, which are left out of it.

    Raises:
        InputError: there is no such dataset, or something is wrong with it, or too many images cannot be read.
    """
    dataset = sources.load_dataset(name, config.data_dir)
    if not sources.kind_of(name)[0].own:
        return dataset, {}
    return set_aside(dataset, None if config.max_unreadable < 0 else config.max_unreadable)


def select_images(config: Config, whole: Dataset) -> tuple[Dataset, Dataset | None]:
    """Selects the few training images; and the new classes, where only the base classes are trained."""
    selected = selection.select_as(config.dataset)(whole, config.shots, config.seed)
    if config.classes == "all":
        return selected, None
    base, new = classes.split_classes(len(selected.class_names))
    if len(new) < 2:
        raise InputError(
            f"{selected.name} has {len(selected.class_names)} classes: base-to-new takes four or more"
        )
    return classes.restrict(selected, base), classes.restrict(selected, new)


def plan(config: Config, workdir: Path, shared: Shared) -> Run:
    """Makes the run of a config, with its selection and its batches.

    Raises:
        InputError: there is no such selection.
    """
    data, _ = select_images(config, shared.whole)
    # A batch, or all images there are, filled up to what the devices divide.
    size = min(config.batch_size, len(data.train) + -len(data.train) % meshes.batch_shards(shared.mesh))
    return Run(config, workdir, shared, data, Batches(len(data.train), size, config.views, config.seed))


def to_classify(run: Run) -> dict[str, Sequence[Record]]:
    """The validation and test images, and the test images of the unseen tasks by name."""
    splits = {"val": run.data.val, "test": run.data.test}
    splits |= {name: task.data.test for name, task in run.shared.unseen.items()}
    return {name: images for name, images in splits.items() if images}


def cached_views(config: Config) -> list[View]:
    """The training views whose features or pixels are kept; none if every epoch has fresh ones."""
    return [View(config.augment, config.seed, number) for number in range(config.views)]


def support(run: Run) -> Support:
    """Features of the selection, for a method that starts from them: of cached views, or else of the evaluation
    view.

    Where it sets itself, the view of evaluation comes first, and validation images are there.
    """
    traits, data = run.shared.method.traits, run.data
    if not traits.starts_from_support:
        return NO_SUPPORT
    views: Sequence[View | None] = cached_views(run.config) or [None]
    if traits.sets_itself:
        views = [None, *cached_views(run.config)] if sources.has_images(run.config.dataset) else [None]

    def read(images: Sequence[Record], view: View | None) -> np.ndarray:
        return np.asarray(run.shared.frozen.images(images, "features", view))

    features = np.stack([read(data.train, view) for view in views])
    known = Support(features, labels_of(data.train), has_texts=run.shared.frozen.has_texts)
    if not (traits.sets_itself and data.val):
        return known
    return known._replace(val_features=read(data.val, None), val_labels=labels_of(data.val))


def labels_of(images: Sequence[Record]) -> Int[np.ndarray, "m"]:
    """The label of every image."""
    return np.array([record.label for record in images], np.int32)


def batch_reader(run: Run) -> Reader:
    """A function from a step to its batch of features or pixels, from cached or fresh views.

    Raises:
        InputError: an image cannot be decoded.
    """
    frozen, images, config = run.shared.frozen, run.data.train, run.config
    reads, labels = run.shared.method.traits.reads, labels_of(images)
    cached: list[Images] = []
    if run.num_steps:  # else nobody will read
        if reads == "pixels" or not config.views:
            frozen.check([images], cached=False)
        cached = [frozen.images(images, reads, view) for view in cached_views(config)]

    def read(step: int) -> Batch:
        number, ids, weights = run.batches.at(step)
        view = View(config.augment, config.seed, number)
        viewed = cached[number] if cached else frozen.images(images, reads, view, kept=False)
        return Batch(np.asarray(viewed[ids]), labels[ids], weights)

    return read
