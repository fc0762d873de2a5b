"""Fits of a method without some of the images that it learns from, which these then judge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from pini_jax.methods import held_out
from pini_jax.methods.method import Variables
from pini_jax.task.run import Run, labels_of, support
from pini_jax.train.step import constants_of, init_state

ENOUGH = 100  # validation images: the coverage of sets at 90 % is then within 5 points of it


def is_due(run: Run) -> bool:
    """Whether the selection stands in for validation images, which are too few: the method is solved for, and
    without a fold every class still has an image.
    """
    counts = np.bincount(labels_of(run.data.train))
    return run.shared.method.traits.is_fitted and len(run.data.val) < ENOUGH and counts.min() > 1


def fits(run: Run) -> Iterator[tuple[Variables, Int[np.ndarray, "i"]]]:
    """What the method learns without each fold of the selection, and the images of the fold."""
    shared, known, labels = run.shared, support(run), labels_of(run.data.train)
    folds = held_out.folds(labels, min(held_out.FOLDS, np.bincount(labels).max()))
    for fold in np.unique(folds):
        rest = known
        if len(known.labels):  # else it learns from no image
            rest = known._replace(features=known.features[:, folds != fold], labels=known.labels[folds != fold])
        state = init_state(shared.method, shared.frozen.theta, shared.task.text, constants_of(run), rest)
        yield state.variables, np.flatnonzero(folds == fold)
