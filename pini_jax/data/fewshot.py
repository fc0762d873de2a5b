"""Few-shot selection: which images a run may see."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

from pini_jax.data.records import Dataset, Record
from pini_jax.errors import InputError

MAX_VAL_SHOTS = 4
LOG = logging.getLogger(__name__)


def select(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """`shots` training images per class, then min(shots, 4) validation images, from one stream of `random`.

    The rule of the CoOp line of papers: group by label in order of first appearance, `random.sample` from each
    group. A class with fewer images gives all of them, and a warning says so.

    Raises:
        InputError: no class has as many training images as asked for, or a class has none.
    """
    stream = random.Random(seed)
    counts = {label: len(group) for label, group in _grouped(dataset.train).items()}
    empty = [name for label, name in enumerate(dataset.class_names) if label not in counts]
    if empty:
        raise InputError(f"{dataset.name} has no training image of: {', '.join(empty)}")
    if shots > max(counts.values()):
        raise InputError(
            f"shots={shots}, but no class of {dataset.name} has more than {max(counts.values())} training images"
        )
    short = {dataset.class_names[label]: n for label, n in counts.items() if n < shots}
    if short:
        listed = ", ".join(f"{name} ({n})" for name, n in short.items())
        LOG.warning("fewer than %d training images, so all are taken, of: %s", shots, listed)
    train = _sample(dataset.train, shots, stream)
    val = _sample(dataset.val, min(shots, MAX_VAL_SHOTS), stream)
    return dataset._replace(train=train, val=val)


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
