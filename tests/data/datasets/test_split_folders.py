"""Which folders are read as splits, which as classes, and which are refused as either."""

import logging
import random
from collections import Counter

import pytest

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import check, folder, split_folders


def make(root, *folders, count=3):
    """Empty images in every folder; a loader does not open them."""
    for place in folders:
        path = root / place
        path.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (path / f"{len(place)}-{i}.jpg").touch()
    return root


def both(tops, inner=("cats", "dogs")):
    return [f"{top}/{name}" for top in tops for name in inner]


# Folders with images -> the folder of training and the folder of test images.
SPLITS = {
    "doubled": (both(["seg_train/seg_train", "seg_test/seg_test"]), "seg_train/seg_train", "seg_test/seg_test"),
    "evaluation": (both(["train", "evaluation"]), "train", "evaluation"),
    "eval": (both(["Train", "Eval"]), "Train", "Eval"),
    "long words": (both(["Training", "Testing"]), "Training", "Testing"),
    "sets": (both(["training_set", "test_set"]), "training_set", "test_set"),
    "images": (both(["train_images", "test_images"]), "train_images", "test_images"),
    "camel": (both(["TrainImages", "TestImages"]), "TrainImages", "TestImages"),
    "years": (both(["train2017", "val2017"]), "train2017", "val2017"),
    "numbers": (both(["train", "test1"]), "train", "test1"),
    "a name": (both(["flowers-train", "flowers-test"]), "flowers-train", "flowers-test"),
    "below one": (both(["images/train", "images/test"]), "images/train", "images/test"),
    "below two": (both(["archive/data/train", "archive/data/test"]), "archive/data/train", "archive/data/test"),
    "around each": (both(["train/images", "test/images"]), "train/images", "test/images"),
    "around one": (both(["train/train", "test"]), "train/train", "test"),
    "around one, in other words": (both(["training/train", "test/data"]), "training/train", "test/data"),
    "three deep": (both(["train/train/train", "test/test/test"]), "train/train/train", "test/test/test"),
    "Spanish": (both(["entrenamiento", "prueba"]), "entrenamiento", "prueba"),
    "German": (both(["Trainingsdaten", "Testdaten"]), "Trainingsdaten", "Testdaten"),
    "French, of a Mac": (both(["entrai\u0302nement", "test"]), "entrai\u0302nement", "test"),
    "Russian": (both(["обучение", "тест"]), "обучение", "тест"),
    "Chinese": (both(["训练集", "测试集"]), "训练集", "测试集"),
    "Japanese": (both(["学習データ", "テストデータ"]), "学習データ", "テストデータ"),
    "other classes": (["train/a", "train/b", "train/c", "test/a", "test/b", "test/c"], "train", "test"),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits_are_read(tmp_path, case):
    folders, train, test = SPLITS[case]
    data = folder.find_folder(make(tmp_path, *folders), seed=1).accepted()
    classes = tuple(sorted({place.rpartition("/")[2] for place in folders}))
    assert (data.class_names, data.val) == (classes, ())
    for records, top in ((data.train, train), (data.test, test)):
        assert sorted({r.id.rpartition("/")[0] for r in records}) == [f"{top}/{name}" for name in classes]
        assert all(data.class_names[r.label] == r.id.split("/")[-2] for r in records)


def test_where_the_classes_lie_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder.find_folder(make(tmp_path, *SPLITS["doubled"][0]), seed=1).accepted()
    assert "its classes are the folders in seg_test/seg_test/ (test), seg_train/seg_train/ (train)" in caplog.text


@pytest.mark.parametrize(
    ("tops", "val", "test"),
    [
        (["training", "validation", "evaluation"], "validation", "evaluation"),
        (["train", "eval", "test"], "eval", "test"),
        (["train", "dev", "holdout"], "dev", "holdout"),
    ],
)
def test_an_evaluation_is_the_test_unless_there_is_one(tmp_path, tops, val, test):
    data = folder.find_folder(make(tmp_path, *both(tops)), seed=1).accepted()
    assert {r.id.split("/")[0] for r in data.val} == {val}
    assert {r.id.split("/")[0] for r in data.test} == {test}


# Folders with images -> the classes.
CLASSES = {
    "plain": (["cat", "dog"], ["cat", "dog"]),
    "the same numbers within": (both(["cat", "dog"], ["1", "2"]), ["cat", "dog"]),
    "within some": (["cat/front", "cat/back", "dog"], ["cat", "dog"]),
    "others within": (["cat/front", "cat/back", "dog/front", "dog/left", "dog/right"], ["cat", "dog"]),
    "one within each": (["cat/images", "dog/images"], ["cat", "dog"]),
    "called like a split": (["train", "bus", "car"], ["bus", "car", "train"]),
    "with a split's word": (["train_station", "bus_station"], ["bus_station", "train_station"]),
    "with it, and the same within": (
        both(["train_station", "bus_station"], ["2024", "2025"]),
        ["bus_station", "train_station"],
    ),
    "valid or not": (["valid", "invalid"], ["invalid", "valid"]),
    "words that hold a split's": (
        both(["latest", "trainer", "evaluated"], ["1", "2"]),
        ["evaluated", "latest", "trainer"],
    ),
    "within one folder": (["images/cat", "images/dog"], ["cat", "dog"]),
    "within the same folder again": (["flowers/flowers/rose", "flowers/flowers/tulip"], ["rose", "tulip"]),
    "numbers": (both(["1", "2", "10"], ["01", "02"]), ["1", "10", "2"]),
    "classes by number": (both(["class_1", "class_2"], ["01", "02"]), ["class_1", "class_2"]),
    "a toy": (["toys/train", "toys/car", "birds"], ["birds", "toys"]),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_are_read(tmp_path, case):
    folders, classes = CLASSES[case]
    data = folder.find_folder(make(tmp_path, *folders), seed=1).accepted()
    assert data.class_names == tuple(classes)
    records = data.train + data.val + data.test
    assert len(records) == 3 * len(folders)
    assert all(data.class_names[r.label] in r.id.split("/") for r in records)


def test_classes_with_the_same_numbers_within_are_a_note(tmp_path, caplog):
    folders, _ = CLASSES["the same numbers within"]
    folder.find_folder(make(tmp_path / "1", *folders), seed=1).accepted()
    assert "classes that all hold 1, 2 (if they are splits, name them train/" in caplog.text
    caplog.clear()
    for case in ("plain", "within some", "one within each", "within one folder"):
        folder.find_folder(make(tmp_path / case, *CLASSES[case][0]), seed=1).accepted()
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_one_folder_that_may_be_a_class_is_a_note(tmp_path, caplog):
    folder.find_folder(make(tmp_path, "cat/front", "cat/back"), seed=1).accepted()
    assert "all images lie in cat/, so that its folders are the classes: back, front" in caplog.text


# Folders with images -> what the message says.
DOUBTS = {
    "another beside train": (both(["train", "more"]), "may be splits, as all hold cats, dogs: name the splits"),
    "another beside test": (both(["learning", "test"]), "may be splits, as all hold cats, dogs"),
    "a flat one beside train": ([*both(["train"]), "unlabelled"], "may be splits, as one is called train"),
    "other classes beside train": ([*both(["train"]), "more/x", "more/y"], "as one is called train"),
    "folds": (both(["fold_0", "fold_1", "fold_2"]), "may be splits, as all hold cats, dogs"),
    "sets": (both(["set1", "set2"]), "may be splits"),
    "other words": (both(["north", "south"]), "if these are classes, move their images out of the folders within"),
    "the same and more": (["cat/front", "cat/back", "dog/front", "dog/back", "dog/left"], "all hold back, front"),
    "words around": (both(["train_of_ours", "test_of_theirs"]), "may be splits"),
    "turned": (both(["cats", "dogs"], ["train", "test"]), "(turn them round, to train/CLASS and test/CLASS)"),
    "turned, in other words": (both(["cats", "dogs"], ["Training", "Validation"]), "turn them round"),
    "turned, once": (["cats/train", "cats/val", "dogs"], "turn them round, to train/CLASS and test/CLASS): cats"),
    "of each class": (
        ["cat_train", "cat_test", "dog_train", "dog_test"],
        "differ in a split only (sort the images into train/CLASS and test/CLASS): cat_test, cat_train, dog_test",
    ),
    "flat splits": (["train", "test1"], "images outside of a class folder within test1/, train/"),
    "flat beside splits": (
        [*both(["seg_train", "seg_test"]), "seg_pred"],
        "images outside of a class folder within seg_test/, seg_train/",
    ),
    "no training": (both(["val", "test_images"]), "splits without an image: train"),
    "twice": (both(["train", "training", "test"]), "2 folders for the train split: train, training"),
    "twice an evaluation": (both(["train", "val", "eval", "test"]), "2 folders for the val split: eval, val"),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_what_may_be_either_is_refused(tmp_path, case):
    folders, words = DOUBTS[case]
    with pytest.raises(InputError) as caught:
        folder.find_folder(make(tmp_path, *folders), seed=1).accepted()
    assert words in str(caught.value) and "\n" not in str(caught.value)
    found = folder.find_folder(tmp_path, seed=1)
    text = check.text(found, check.Report((), (), Counter()))
    assert "wrong: " in text and "nothing is wrong" not in text


def test_an_empty_class_is_no_reason_to_look_through_another(tmp_path):
    """Nor is one whose pictures cannot be read."""
    make(tmp_path / "1", "cat/front", "cat/back")
    (tmp_path / "1" / "dog").mkdir()
    with pytest.raises(InputError, match="classes without a training image: dog"):
        folder.find_folder(tmp_path / "1", seed=1).accepted()
    make(tmp_path / "2", "cat/front", "cat/back", "dog")
    for file in (tmp_path / "2" / "dog").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(InputError, match="classes without a training image: dog"):
        folder.find_folder(tmp_path / "2", seed=1).accepted()


def test_what_lies_beside_a_folder_of_images(tmp_path):
    make(tmp_path, "images/cat", "images/dog")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "classes.txt").touch()
    assert folder.find_folder(tmp_path, seed=1).accepted().class_names == ("cat", "dog")


def test_what_lies_beside_a_folder_of_splits(tmp_path):
    make(tmp_path, *both(["flowers/train", "flowers/test"]))
    (tmp_path / "meta").mkdir()
    data = folder.find_folder(tmp_path, seed=1).accepted()
    assert data.class_names == ("cats", "dogs") and {r.id.split("/")[1] for r in data.test} == {"test"}


WORDS = ["cat", "dog", "front", "back", "train", "test", "val", "eval", "images", "set_1", "bus_station", "é", "1"]
WORDS += ["a\nb", "\x1b[31m", ".old", "@eaDir", "x" * 200]


@pytest.mark.parametrize("seed", range(100))
def test_any_tree_is_read_or_refused(tmp_path, seed):
    """Images lie in a folder of their class, and neither the classes nor the folders in one are splits by name."""
    chance = random.Random(seed)
    places = {"/".join(chance.choices(WORDS, k=chance.randint(1, 4))) for _ in range(chance.randint(1, 12))}
    make(tmp_path, "cat", *places, count=4)
    found = folder.find_folder(tmp_path, seed=1)
    data = found.dataset
    for problem in (*found.problems, *found.notes):
        assert str(problem).isprintable() and len(str(problem)) < 3000
    records = data.train + data.val + data.test
    assert len({r.id for r in records}) == len(records)
    assert all(data.class_names[r.label] in r.id.split("/")[:-1] for r in records)
    if not found.problems:
        parts = [(data.class_names[r.label], r.id.split("/")) for r in records]
        inner = {name: {part[part.index(name) + 1] for of, part in parts if of == name} for name, _ in parts}
        for names in (data.class_names, *inner.values()):
            called = {split_folders.SPLITS.get(name) for name in names}
            assert "train" not in called or not called & {"test", "val", "eval"}
