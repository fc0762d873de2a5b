"""Base and new classes: which they are, and that a restriction changes labels only."""

import pytest

from pini_jax.data.datasets import classes
from pini_jax.data.datasets.records import Dataset, Record

NAMES = ("ant", "bee", "cow", "dog", "eel")
DATASET = Dataset(
    "toys",
    NAMES,
    train=tuple(Record(f"train/{i}", b"", label) for i, label in enumerate([3, 0, 4, 1, 2, 3])),
    val=tuple(Record(f"val/{i}", b"", label) for i, label in enumerate([4, 2])),
    test=tuple(Record(f"test/{i}", b"", label) for i, label in enumerate([1, 3, 3])),
)


@pytest.mark.parametrize(("num", "base"), [(1, 1), (2, 1), (10, 5), (37, 19), (47, 24), (101, 51), (397, 199)])
def test_base_is_the_larger_half(num, base):
    assert classes.split_classes(num) == (tuple(range(base)), tuple(range(base, num)))


def test_a_restriction_keeps_the_order_of_records_and_counts_labels_anew():
    base, new = (classes.restrict(DATASET, labels) for labels in classes.split_classes(5))
    assert (base.name, base.class_names, new.class_names) == ("toys", NAMES[:3], NAMES[3:])
    assert [(r.id, r.label) for r in base.train] == [("train/1", 0), ("train/3", 1), ("train/4", 2)]
    assert [(r.id, r.label) for r in new.train] == [("train/0", 0), ("train/2", 1), ("train/5", 0)]
    assert [r.label for r in base.val + new.val] == [2, 1]
    assert [r.id for r in new.test] == ["test/1", "test/2"]


def test_all_classes_are_the_dataset():
    assert classes.restrict(DATASET, range(5)) == DATASET


def test_a_test_only_dataset_can_be_restricted():
    assert classes.restrict(DATASET._replace(train=(), val=()), [3]).train == ()
