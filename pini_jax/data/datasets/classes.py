"""Some of a dataset's classes: the base and new halves that methods are compared on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pini_jax.data.datasets.records import Dataset, Record


def split_classes(num_classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Labels of the base and of the new classes: 0 to ceil(n / 2) - 1, and the rest.

    Source: CoOp, `subsample_classes`.
    """
    middle = math.ceil(num_classes / 2)
    return tuple(range(middle)), tuple(range(middle, num_classes))


def restrict(dataset: Dataset, labels: Sequence[int]) -> Dataset:
    """Only the classes of `labels`, which become 0, 1, ... in the order given; records keep their order.

    Papers select the shots of all classes and restrict the selection; the other way round draws other images.
    """
    relabelled = {label: new for new, label in enumerate(labels)}

    def keep(records: Sequence[Record]) -> tuple[Record, ...]:
        return tuple(r._replace(label=relabelled[r.label]) for r in records if r.label in relabelled)

    names = tuple(dataset.class_names[label] for label in labels)
    return Dataset(dataset.name, names, keep(dataset.train), keep(dataset.val), keep(dataset.test))
