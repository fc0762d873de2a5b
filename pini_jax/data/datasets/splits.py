"""Which images train, validate and test where a dataset does not say: a pure function of seed and ids.

| the dataset has        | training       | validation | test       |
|------------------------|----------------|------------|------------|
| train, val and test    | its own        | its own    | its own    |
| train and test         | its own        | none       | its own    |
| train and val          | its own        | none       | its val    |
| train, or no splits    | 50 %           | 20 %       | 30 %       |

Where there is no validation, the selection takes its few validation images from the training images that it leaves
over. TFDS's datasets are carved instead: 80 % of train, and the rest for validation.

Fractions are of every class, rounded. A class of two images or more has at least one in a part that is cut off,
and its last image is never cut off. The images of a class are cut in the order of SHA-256(seed, id), so that a new
image moves at most one other across each cut.

Source of the fractions: CoOp, `read_and_split_data` and `split_trainval`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pini_jax.data.datasets.records import Dataset, Record

# What folders, tables and TFDS call the three splits, in lower case.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
VAL_OF_TRAIN = 0.2
TEST_OF_ALL, VAL_OF_ALL = 0.3, 0.2
LOG = logging.getLogger(__name__)


def complete(
    name: str, class_names: Sequence[str], splits: Mapping[str, Sequence[Record]], seed: int, carve: bool = False
) -> Dataset:
    """The dataset with what `splits` lacks cut off its training images, by the table above.

    Args:
        name: of the dataset.
        class_names: by label.
        splits: records under `train`, `val` and `test`, or some of these; an empty one stays empty.
        seed: of the cuts.
        carve: whether a part of `train` is for validation where the dataset has none.
    """
    train, val, test = (splits.get(split, ()) for split in ("train", "val", "test"))
    match "val" in splits, "test" in splits:
        case False, True:
            train, val = _cut(train, VAL_OF_TRAIN, seed) if carve else (train, ())
        case True, False:
            test = val
            train, val = _cut(train, VAL_OF_TRAIN, seed) if carve else (train, ())
        case False, False:
            train, test = _cut(train, TEST_OF_ALL, seed)
            train, val = _cut(train, VAL_OF_ALL / (1 - TEST_OF_ALL), seed)
    if len(train) < len(splits.get("train", ())):
        sizes = len(train), len(val), len(test)
        LOG.info("%s, cut by seed %d: %d training, %d validation and %d test images", name, seed, *sizes)
    return Dataset(name, tuple(class_names), tuple(train), tuple(val), tuple(test))


def _cut(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """What stays, and `fraction` of every class; both in the order of `records`."""
    groups: dict[int, list[str]] = defaultdict(list)
    for record in records:
        groups[record.label].append(record.id)
    off: set[str] = set()
    for ids in groups.values():
        number = min(len(ids) - 1, max(1, round(fraction * len(ids))))
        off.update(sorted(ids, key=lambda id: hashlib.sha256(f"{seed}/{id}".encode()).digest())[:number])
    return [r for r in records if r.id not in off], [r for r in records if r.id in off]


def rows(dataset: Dataset) -> dict[str, list[list[Any]]]:
    """{"train": [[id, label, class name], ...], "val": ..., "test": ...}: splits to keep beside the results.

    The layout is that of CoOp's split_zhou_*.json.
    """
    return {
        split: [[record.id, record.label, dataset.class_names[record.label]] for record in records]
        for split, records in zip(("train", "val", "test"), dataset[2:], strict=True)
    }
