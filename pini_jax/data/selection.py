"""Few-shot selection: which images a run may see."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

import numpy as np

from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed
from pini_jax.data.datasets import sources
from pini_jax.data.datasets.records import Dataset, Record

MAX_VAL_SHOTS = 4
Rule = Callable[[Dataset, int, int], Dataset]
LOG = logging.getLogger(__name__)


def select(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """`shots` training images per class, then min(shots, 4) validation images, from one stream of `random`.

    The rule of the CoOp line of papers: group by label in order of first appearance, `random.sample` from each
    group. A class with fewer images gives all of them, and a warning says so. Where the dataset has no validation
    images, as ImageNet, they are drawn likewise from the training images that are left over.

    Raises:
        InputError: no class has as many training images as asked for, or a class has none.
    """
    _check(dataset, shots)
    stream = random.Random(seed)
    train = _sample(dataset.train, shots, stream)
    pool = dataset.val or _without(dataset.train, train)
    if not pool and dataset.test:
        LOG.warning("%s has no image left for validation: result.json will have none", dataset.name)
    return dataset._replace(train=train, val=_sample(pool, min(shots, MAX_VAL_SHOTS), stream))


def select_from_pack(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """`shots` training images per class, then min(shots, 4) validation images: the rule for packs of features.

    One `numpy.random.default_rng(seed)` permutes the training images of each class, in the order of labels; the
    first are for training, and the next, unless the pack has its own, for validation.

    Raises:
        InputError: as in `select`.
    """
    _check(dataset, shots)
    stream = np.random.default_rng(seed)
    groups = _grouped(dataset.train)
    train: list[Record] = []
    val: list[Record] = []
    for label in range(len(dataset.class_names)):
        permuted = [groups[label][i] for i in stream.permutation(len(groups[label]))]
        train += permuted[:shots]
        val += permuted[shots : shots + min(shots, MAX_VAL_SHOTS)]
    return dataset._replace(train=tuple(train), val=dataset.val or tuple(val))


def select_as(dataset_name: str) -> Rule:
    """The rule for a kind of dataset, by the name in the config."""
    return select if sources.has_images(dataset_name) else select_from_pack


def _check(dataset: Dataset, shots: int) -> None:
    counts = {label: len(group) for label, group in _grouped(dataset.train).items()}
    empty = [name for label, name in enumerate(dataset.class_names) if label not in counts]
    if empty:
        raise InputError(f"{dataset.name} has no training image of: {listed(empty)}")
    if shots > (most := max(counts.values())):
        raise InputError(
            f"shots={shots}, but no class of {dataset.name} has more than {most} training images: "
            f"ask for {most} or fewer"
        )
    short = {dataset.class_names[label]: n for label, n in counts.items() if n < shots}
    if short and dataset.test:  # without one the images are a program's own, and it knows how many
        few = listed(f"{name} ({n})" for name, n in short.items())
        LOG.warning("fewer than %d training images, so all are taken, of: %s", shots, few)


def _without(records: Sequence[Record], taken: Sequence[Record]) -> tuple[Record, ...]:
    ids = {record.id for record in taken}
    return tuple(record for record in records if record.id not in ids)


def _grouped(records: Sequence[Record]) -> dict[int, list[Record]]:
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(record.label, []).append(record)
    return groups


def _sample(records: Sequence[Record], shots: int, stream: random.Random) -> tuple[Record, ...]:
    picked: list[Record] = []
    for group in _grouped(records).values():
        picked += stream.sample(group, shots) if len(group) >= shots else group
    return tuple(picked)
