"""What a method learns without some of the images of a selection, which these then judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from pini_jax.core import stop
from pini_jax.data.batches import Batches
from pini_jax.methods import held_out
from pini_jax.methods.method import Variables
from pini_jax.task import task as tasks
from pini_jax.task.run import Run, batch_reader, labels_of
from pini_jax.task.task import Task
from pini_jax.train.step import constants_of, initial_state, train_step

ENOUGH = 100  # validation images: for most of them sets at 90 % then cover within 5 points of it
TRAININGS = 2  # folds of a method that takes steps: together they cost as much as the run's own training
_step = jax.jit(train_step, static_argnums=(0, 1))  # compiled once for all folds and runs of one kind


class Fold(NamedTuple):
    """Images of the selection, by number, with the task and what was learned without them."""

    images: Int[np.ndarray, "i"]
    task: Task
    variables: Variables


def is_due(run: Run) -> bool:
    """Whether the selection supplements the validation images: these are few, and retraining needs no tower.

    Without a fold every class still has an image.
    """
    counts = np.bincount(labels_of(run.data.train))
    return len(run.data.val) < ENOUGH and counts.min() > 1 and not run.shared.method.traits.needs_towers


def fits(run: Run) -> Iterator[Fold]:
    """Every fold of the selection: five for a method in closed form, otherwise `TRAININGS`."""
    labels = labels_of(run.data.train)
    most = held_out.FOLDS if run.shared.method.traits.is_fitted else TRAININGS
    folds = held_out.folds(labels, min(most, np.bincount(labels).max()))
    for fold in np.unique(folds):
        rest = without(run, folds == fold)
        yield Fold(np.flatnonzero(folds == fold), rest.shared.task, train_fold(rest))


def without(run: Run, fold: Bool[np.ndarray, "m"]) -> Run:
    """The run without a fold of its selection; the rest alone stands in for texts that are not known."""
    rest = tuple(record for record, out in zip(run.data.train, fold, strict=True) if not out)
    size = min(run.batches.batch_size, len(rest))
    batches = Batches(len(rest), size, run.config.views, run.config.seed)
    data, shared = run.data._replace(train=rest), run.shared
    if not shared.frozen.has_texts:
        frozen = shared.frozen.trained_on(rest)
        task = tasks.make_task(run.config, frozen, shared.task.data, run.config.dataset)
        shared = shared._replace(frozen=frozen, task=task)
    return run._replace(data=data, shared=shared, batches=batches)


def train_fold(run: Run) -> Variables:
    """What a run learns, without writing anything."""
    shared, read, state = run.shared, batch_reader(run), initial_state(run)
    fixed = shared.method, run.config.num_samples
    for i in range(run.num_steps):
        stop.raise_if_requested()
        state, _ = _step(*fixed, state, shared.frozen.theta, shared.task.text, read(i), constants_of(run))
    return state.variables
