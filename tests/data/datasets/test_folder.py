"""Folders of class folders: layouts, the splits that are cut, and what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pini_jax.core.errors import InputError
from pini_jax.data import selection as fewshot
from pini_jax.data.datasets import folder, splits
from pini_jax.data.datasets.records import Dataset, Record, list_hash, open_image

DATA = os.environ.get("PINI_DATA_DIR")


def fill(root, *files):
    """Empty files: a loader does not open images."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def many(*classes, count=10):
    return [f"{name}/{i:03d}.jpg" for name in classes for i in range(count)]


def ids(records):
    return [record.id for record in records]


def in_splits(dataset):
    return {r.id: split for split in ("train", "val", "test") for r in getattr(dataset, split)}


# ------------------------------------------------------------------------------------------------ layouts


def test_class_folders(tmp_path):
    data = folder.find_folder(fill(tmp_path, *many("sea_lion", "ant"), "ant/nest/a/x.PNG"), seed=1).accepted()
    assert data.class_names == ("ant", "sea_lion")
    records = data.train + data.val + data.test
    assert sorted(ids(records)) == sorted([*many("sea_lion", "ant"), "ant/nest/a/x.PNG"])
    for record in records:
        assert data.class_names[record.label] == record.id.split("/")[0]
        assert record.source == tmp_path / record.id


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "Png", "webp", "bmp", "GIF", "tiff", "ppm", "pgm", "jfif"])
def test_endings_of_images(tmp_path, suffix):
    data = folder.find_folder(fill(tmp_path, *many("a", "b"), f"a/image.with.dots.{suffix}"), seed=1).accepted()
    assert f"a/image.with.dots.{suffix}" in in_splits(data)


def test_pictures_that_are_left_out_are_a_line(tmp_path, caplog):
    files = [*many("a", "b"), *(f"a/IMG_{i}.CR2" for i in range(3)), "b/x.svg", "b/notes.txt", "b/.old/y.jpg"]
    found = folder.find_folder(fill(tmp_path, *files), seed=1)
    assert len(in_splits(found.accepted())) == 20
    assert found.ignored == ("b/notes.txt",)
    assert f"{tmp_path}: 4 pictures are left out: 3 .cr2 (camera RAW: develop it to JPEG), 1 .svg (" in caplog.text
    assert "hidden pictures, and folders with pictures, are left out: b/.old" in caplog.text


def test_a_folder_of_nothing_but_unread_pictures_says_so(tmp_path):
    with pytest.raises(InputError, match=r"holds no image that can be read \(10 .cr2 \(camera RAW"):
        folder.find_folder(fill(tmp_path, *(f"a/{i}.cr2" for i in range(10))), seed=1).accepted()


@pytest.mark.parametrize(
    "name",
    ["1", "10.0", "n01440764", "class_3", "Label 7", "-1", "1e-05", "No. 5", "#5", "species_02", "True", "nan"],
)
def test_names_that_say_nothing_are_a_line(tmp_path, caplog, name):
    folder.find_folder(fill(tmp_path, *many(name, "boeing 747", "7 up", "n2")), seed=1).accepted()
    assert "names that say nothing of their class, though prompts show them" in caplog.text
    assert caplog.text.endswith(f"column `name`): {name}\n")


@pytest.mark.parametrize(("name", "silent"), [("c1", True), ("b1", False), ("car", False)])
def test_a_letter_and_a_number_say_nothing_if_all_are_so(tmp_path, caplog, name, silent):
    folder.find_folder(fill(tmp_path, *many("c0", "c_10", name)), seed=1).accepted()
    assert ("names that say nothing of their class" in caplog.text) == silent


@pytest.mark.parametrize("name", ["cat|dog", "dog; Cat", "cat,bird", "['cat', 'dog']", "cat + dog", "cat&bird"])
def test_names_that_join_others_are_a_line(tmp_path, caplog, name):
    folder.find_folder(fill(tmp_path, *many("cat", "dog", "red, green", name)), seed=1).accepted()
    assert f"names that join those of other classes, where an image has one class only: {name}" in caplog.text


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "VALID"])
def test_split_folders(tmp_path, val):
    fill(tmp_path, *many("train/a", "Test/a", "train/b", "Test/b", f"{val}/a", f"{val}/b", count=3))
    data = folder.find_folder(tmp_path, seed=1).accepted()
    assert data.class_names == ("a", "b")
    for records, name in ((data.train, "train"), (data.val, val), (data.test, "Test")):
        assert ids(records) == many(f"{name}/a", f"{name}/b", count=3)
        assert [record.label for record in records] == [0] * 3 + [1] * 3


def test_nothing_is_cut_off_training_images_that_are_named_so(tmp_path):
    """The selection takes its validation images from those that it leaves over."""
    data = folder.find_folder(
        fill(tmp_path, *many("train/a", "train/b", count=16), *many("test/a", "test/b")), seed=1
    ).accepted()
    assert ids(data.test) == many("test/a", "test/b")
    assert (ids(data.train), data.val) == (many("train/a", "train/b", count=16), ())
    selected = fewshot.select(data, shots=8, seed=1)
    assert np.bincount([r.label for r in selected.val]).tolist() == [4, 4]
    assert not set(selected.train) & set(selected.val)
    assert fewshot.select(data, shots=16, seed=1).val == ()


def test_without_a_test_folder_validation_is_the_test(tmp_path):
    data = folder.find_folder(
        fill(tmp_path, *many("train/a", "train/b"), *many("val/a", "val/b", count=4)), seed=1
    ).accepted()
    assert ids(data.test) == many("val/a", "val/b", count=4)
    assert len(data.val) == 0 and len(data.train) == 20


def test_train_alone_is_cut_in_three(tmp_path):
    data = folder.find_folder(fill(tmp_path, *many("train/a", "train/b")), seed=1).accepted()
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 6)


def test_a_class_may_be_called_train(tmp_path):
    data = folder.find_folder(fill(tmp_path, *many("train", "bus", "car")), seed=1).accepted()
    assert data.class_names == ("bus", "car", "train")


def test_what_is_no_image_is_ignored_and_counted(tmp_path):
    extra = ["README.md", "a/notes.txt", ".DS_Store", "a/._x.jpg", ".git/x.jpg", "__MACOSX/a/x.jpg"]
    found = folder.find_folder(fill(tmp_path, *many("a", "b"), *extra), seed=1)
    assert len(in_splits(found.accepted())) == 20
    assert sorted(found.ignored) == sorted(
        ["README.md", "a/notes.txt", ".DS_Store", "a/._x.jpg", ".git", "__MACOSX"]
    )


def test_folders_beside_the_splits_may_hold_other_things(tmp_path):
    fill(tmp_path, *many("train/a", "train/b", "test/a", "test/b"), "lists/classes.txt")
    assert folder.find_folder(tmp_path, seed=1).accepted().class_names == ("a", "b")


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    fill(tmp_path / "elsewhere", *many("b"))
    root = fill(tmp_path / "data", *many("a"))
    (root / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (root / "a" / "up").symlink_to(root)
    found = folder.find_folder(root, seed=1)
    assert sorted(in_splits(found.accepted())) == many("a", "b")
    assert found.ignored == ("a/up",)


@pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR is not set")
def test_real_images():
    data = folder.find_folder(Path(DATA, "images", "cifar10"), seed=1).accepted()
    assert (len(data.train), len(data.val), len(data.test)) == (160, 0, 500)
    assert data.class_names[3] == "cat" and len(data.class_names) == 10
    assert open_image(data.test[0]).size == (32, 32)
    assert len(fewshot.select(data, 8, seed=1).train) == 80


# ------------------------------------------------------------------------------------------------ cuts


def records(*counts):
    return [Record(f"{label}/{i}.jpg", b"", label) for label, n in enumerate(counts) for i in range(n)]


@pytest.mark.parametrize(
    ("images", "train", "val", "test"),
    [
        (1, 1, 0, 0),
        (2, 1, 0, 1),
        (3, 1, 1, 1),
        (4, 2, 1, 1),
        (10, 5, 2, 3),
        (100, 50, 20, 30),
        (777, 389, 155, 233),
    ],
)
def test_every_class_is_cut_alike(images, train, val, test):
    data = splits.complete("toys", "ab", {"train": records(images, 100)}, seed=1)
    assert [sum(r.label == 0 for r in part) for part in data[2:]] == [train, val, test]
    assert [sum(r.label == 1 for r in part) for part in data[2:]] == [50, 20, 30]


def test_a_cut_is_a_function_of_the_seed():
    first, again, other = (splits.complete("toys", "ab", {"train": records(50, 50)}, seed) for seed in (1, 1, 2))
    assert first == again
    assert {r.id for r in first.test} != {r.id for r in other.test}


def test_the_cut_stands():
    """Results are comparable only as long as it does."""
    data = splits.complete("toys", "abc", {"train": records(20, 30, 7)}, seed=1)
    assert [list_hash(part)[:12] for part in data[2:]] == ["cbd3b7bcf87e", "e3c5b39948f3", "6bdee50d74b7"]


def test_the_cut_does_not_depend_on_where_the_images_lie(tmp_path):
    a = folder.find_folder(fill(tmp_path / "here", *many("x", "y")), seed=3).accepted()
    b = folder.find_folder(fill(tmp_path / "there", *reversed(many("x", "y"))), seed=3).accepted()
    assert [ids(part) for part in a[2:]] == [ids(part) for part in b[2:]]


def test_a_new_image_moves_few_others():
    before = in_splits(splits.complete("toys", "a", {"train": records(40)}, seed=1))
    for n in range(30):
        added = [*records(40), Record(f"0/new {n}.jpg", b"", 0)]
        after = in_splits(splits.complete("toys", "a", {"train": added}, seed=1))
        assert sum(after[id] != split for id, split in before.items()) <= 2


def test_rows_of_a_split():
    data = Dataset("toys", ("ant", "bee"), (Record("x", b"", 1),), (), (Record("y", b"", 0),))
    assert splits.rows(data) == {"train": [["x", 1, "bee"]], "val": [], "test": [["y", 0, "ant"]]}


# ------------------------------------------------------------------------------------------------ refusals


def refused(path):
    with pytest.raises(InputError) as caught:
        folder.find_folder(path, seed=1).accepted()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_shows_the_tree(tmp_path):
    assert "CLASS/IMAGE.jpg" in (message := refused(tmp_path / "none")) and "train/CLASS" in message
    fill(tmp_path, "x.jpg")
    assert "is no folder" in refused(tmp_path / "x.jpg")


def test_a_folder_without_images_shows_the_tree(tmp_path):
    assert "holds no image" in (message := refused(fill(tmp_path, "a/x.txt"))) and "CLASS/IMAGE.jpg" in message


def test_an_empty_class_is_named(tmp_path):
    fill(tmp_path, *many("a", "b"))
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path) == f"{tmp_path}: classes without a training image: empty"


@pytest.mark.parametrize("other", ["Sea_Lion", "sea lion", "sea__lion", "SEA LION"])
def test_two_folders_of_one_name_are_named(tmp_path, other):
    fill(tmp_path, *many("sea_lion", other, "ant"))
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: classes with one name: ")
    assert "'sea_lion'" in message and repr(other) in message and "ant" not in message.split(": ", 2)[2]


def test_a_class_that_a_split_lacks_is_named(tmp_path):
    fill(tmp_path, *many("train/a", "train/b", "test/a", "test/b", "val/a"), *many("test/c"))
    message = refused(tmp_path)
    assert "classes without an image in val/: b, c" in message
    assert "classes without a training image: c" in message and "in test/" not in message


@pytest.mark.parametrize("split", ["val", "test", "train"])
def test_an_empty_split_is_named(tmp_path, split):
    fill(tmp_path, *many(*(f"{s}/{c}" for s in ("train", "val", "test") for c in "ab")))
    shutil.rmtree(tmp_path / split)
    (tmp_path / split).mkdir()
    assert refused(tmp_path) == f"{tmp_path}: splits without an image: {split}"


def test_too_few_images_to_test_on_are_said(tmp_path):
    assert "splits without an image: test" in refused(fill(tmp_path, *many("a", "b", count=1)))


def test_one_image_of_each_class_trains_where_there_is_a_test(tmp_path):
    data = folder.find_folder(
        fill(tmp_path, *many("train/a", "train/b", count=1), *many("test/a", "test/b")), seed=1
    ).accepted()
    assert len(data.train) == 2 and not data.val


def test_images_outside_of_a_class_are_named(tmp_path):
    assert "outside of a class folder: x.jpg" in refused(fill(tmp_path / "1", *many("a", "b"), "x.jpg"))
    files = [*many("train/a", "train/b"), *(f"test/{i}.jpg" for i in range(12))]
    message = refused(fill(tmp_path / "2", *files))
    assert "outside of a class folder within test/, train/: test/0.jpg, " in message
    assert "test/7.jpg, and 2 more" in message
    assert "splits without an image: test" in message
    strange = refused(
        fill(tmp_path / "3", *many("train/a", "train/b", "test/a", "test/b"), *many("more/a", count=1))
    )
    assert "more/a/000.jpg" in strange


def test_a_single_class_is_said(tmp_path):
    assert "one class, where it takes two: a" in refused(fill(tmp_path, *many("a")))


def test_two_folders_of_one_split_are_named(tmp_path):
    fill(tmp_path, *many(*(f"{s}/{c}" for s in ("train", "val", "valid", "test") for c in "ab")))
    assert refused(tmp_path) == f"{tmp_path}: 2 folders for the val split: val, valid"


def test_broken_links_are_missing_images(tmp_path):
    fill(tmp_path, *many("a", "b"))
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert refused(tmp_path) == f"{tmp_path}: images that are missing (broken links): a/gone.jpg"


def test_names_that_are_no_text_are_named(tmp_path):
    fill(tmp_path, *many("a", "b"))
    try:
        open(os.fsencode(tmp_path) + b"/a/caf\xe9.jpg", "w").close()
    except OSError:
        pytest.skip("this file system keeps names in UTF-8")
    assert refused(tmp_path).endswith(": names that are not UTF-8: a/caf\\udce9.jpg")


def test_a_name_that_says_nothing_is_named(tmp_path):
    assert "labels without a name: 0" in refused(fill(tmp_path, *many("_", "a", "b")))


def test_all_problems_are_named_at_once(tmp_path):
    fill(tmp_path, *many("cat", "Cat", "dog"), "stray.png")
    (tmp_path / "empty").mkdir()
    message = refused(tmp_path)
    for part in ("stray.png", "'Cat' = 'cat'", "training image: empty"):
        assert part in message


def test_images_are_not_opened_by_the_loader(tmp_path):
    """So that the check can list all that cannot be read."""
    fill(tmp_path, *many("a", "b"))
    Image.new("RGB", (2, 2)).save(tmp_path / "a" / "000.jpg")
    assert len(in_splits(folder.find_folder(tmp_path, seed=1).accepted())) == 20
