"""Few-shot selections: the field's recorded ones, and the rule's edges."""

import json
import logging
import os
import re
from pathlib import Path

import pytest

from pini_jax.core.errors import InputError
from pini_jax.data import selection as fewshot
from pini_jax.data.datasets.records import Dataset, Record

DATA = os.environ.get("PINI_DATA_DIR")
FOLDERS = {"DescribableTextures": "dtd", "EuroSAT": "eurosat", "OxfordPets": "oxford_pets"}
CASES = sorted(Path(DATA, "indices").glob("*/*.json")) if DATA else []

# ------------------------------------------------------------------------------------------------ recordings


@pytest.fixture(scope="module")
def splits():
    """{dataset: its recorded split}, by the name of its folder of selections."""
    found = {}
    for path in Path(DATA, "splits").glob("split_zhou_*.json"):
        split = {
            name: tuple(Record(id, Path(id), label) for id, label, _ in rows)
            for name, rows in json.loads(path.read_text()).items()
        }
        names = tuple(str(label) for label in range(1 + max(record.label for record in split["train"])))
        dataset = path.stem.removeprefix("split_zhou_")
        found[FOLDERS[dataset]] = Dataset(dataset, names, split["train"], split["val"], split["test"])
    return found


@pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR is not set")
def test_there_are_recordings_of_every_dataset(splits):
    assert {path.parent.name for path in CASES} == set(splits) == set(FOLDERS.values())


@pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR is not set")
@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_selections_are_the_recorded_ones(splits, path):
    """Every image, in order, of training and validation."""
    shots, seed = map(int, re.fullmatch(r"shot_(\d+)-seed_(\d+)", path.stem).groups())
    selected = fewshot.select(splits[path.parent.name], shots, seed)
    recorded = json.loads(path.read_text())
    for ours, theirs in ((selected.train, recorded["train"]["data"]), (selected.val, recorded["val"]["data"])):
        assert len(ours) == len(theirs)
        for record, row in zip(ours, theirs, strict=True):
            assert row["impath"].endswith("/" + record.id) and record.label == row["label"]


# ------------------------------------------------------------------------------------------------ the rule


def dataset(*train_counts, val=8):
    def records(split, counts):
        return tuple(Record(f"{split}/{c}/{i}", b"", c) for c, n in enumerate(counts) for i in range(n))

    names = tuple(f"class {c}" for c in range(len(train_counts)))
    every = [val] * len(train_counts)
    return Dataset("toys", names, records("train", train_counts), records("val", every), records("test", every))


def counts(records):
    return [sum(r.label == label for r in records) for label in sorted({r.label for r in records})]


@pytest.mark.parametrize(("shots", "val_shots"), [(1, 1), (2, 2), (4, 4), (8, 4), (16, 4)])
def test_shots_per_class(shots, val_shots):
    """The validation set is never larger than four per class."""
    data = dataset(16, 20, 40)
    selected = fewshot.select(data, shots, seed=1)
    assert counts(selected.train) == [shots] * 3
    assert counts(selected.val) == [val_shots] * 3
    assert len(set(selected.train)) == 3 * shots
    assert set(selected.train) <= set(data.train) and set(selected.val) <= set(data.val)
    assert selected.test == data.test


def test_a_seed_is_a_selection():
    data = dataset(30, 30)
    assert fewshot.select(data, 4, seed=1) == fewshot.select(data, 4, seed=1)
    selections = {fewshot.select(data, 4, seed).train for seed in range(10)}
    assert len(selections) == 10
    assert len({fewshot.select(data, 4, seed).val for seed in range(10)}) > 5


def test_small_classes_give_all_they_have_and_are_named(caplog):
    caplog.set_level(logging.WARNING)
    data = dataset(3, 5, 1)
    selected = fewshot.select(data, 4, seed=1)
    assert counts(selected.train) == [3, 4, 1]
    assert {r.id for r in selected.train if r.label != 1} == {r.id for r in data.train if r.label != 1}
    assert "class 0 (3), class 2 (1)" in caplog.text and "class 1" not in caplog.text


def test_enough_images_are_no_warning(caplog):
    fewshot.select(dataset(4, 4), 4, seed=1)
    assert not caplog.records


def test_more_shots_than_any_class_has_are_refused():
    with pytest.raises(InputError, match="shots=6.*toys.*more than 5"):
        fewshot.select(dataset(3, 5), 6, seed=1)


@pytest.mark.parametrize("train", [(3, 0, 3, 0), (0, 0, 0, 0)], ids=["two", "all"])
def test_classes_without_images_are_named(train):
    empty = ", ".join(f"class {c}" for c, n in enumerate(train) if not n)
    with pytest.raises(InputError, match=f"toys has no training image of: {empty}$"):
        fewshot.select(dataset(*train), 2, seed=1)
