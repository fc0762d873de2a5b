"""Datasets that TFDS itself has written as array_record, read back without TensorFlow."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import emulators
import numpy as np
import pytest
from PIL import Image

from pini_jax.core.bucket import open_bucket
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import sources, splits, tfds
from pini_jax.data.datasets.records import open_image

library = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")
library.disable_progress_bar()
NAMES = ["zebra", "ant"]


class WithoutTensorFlow:
    """A finder of modules that does not find TensorFlow, even where it is installed."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] == "tensorflow" else self.finder.find_spec(name, *rest)


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    if "tensorflow" in sys.modules:
        pytest.skip("another test has imported TensorFlow")
    monkeypatch.setattr(sys, "meta_path", [WithoutTensorFlow(finder) for finder in sys.meta_path])
    yield
    assert "tensorflow" not in sys.modules


def encoded(seed, kind="JPEG", shape=(8, 9, 3)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write(folder, name, parts, features=None, base=library.core.GeneratorBasedBuilder, **members):
    """Prepares {split: examples} as TFDS does; the builder is forgotten, so that only files are left."""
    kinds = library.features
    described = features or {"image": kinds.Image(), "label": kinds.ClassLabel(names=NAMES)}
    attributes = {
        "name": name,
        "VERSION": library.core.Version("1.2.3"),
        "_info": lambda self: library.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(described)),
        "_generate_examples": lambda self: None,
    }
    if base is not library.core.GeneratorBasedBuilder:
        attributes = {"name": name}
    attributes["_split_generators"] = lambda self, _: {
        s: list(enumerate(examples)) for s, examples in parts.items()
    }
    with library.core.registered.skip_registration():
        builder = type(name, (base,), attributes | members)
    builder(data_dir=str(folder), file_format="array_record").download_and_prepare()


def examples(labels, start=0, **more):
    """Images whose seeds are start, start + 1, ...; TFDS shuffles them."""
    return [{"image": io.BytesIO(encoded(start + i)), "label": x, **more} for i, x in enumerate(labels)]


def images_and_labels(records):
    return sorted((record.source(), record.label) for record in records)


def expected(labels, start=0):
    return sorted((encoded(start + i), x) for i, x in enumerate(labels))


# ------------------------------------------------------------------------------------------------ reading


def test_what_tfds_wrote_is_read_back(tmp_path):
    labels = {"train": [0, 1] * 10, "validation": [0, 1, 1], "test": [1, 0, 0, 0], "extra": [0]}
    write(tmp_path, "toys", {split: examples(x, start=100 * i) for i, (split, x) in enumerate(labels.items())})
    data = tfds.find_tfds("toys", tmp_path, seed=1).accepted()
    assert data.name == "tfds:toys/1.2.3" and data.class_names == ("zebra", "ant")
    for i, (records, split) in enumerate([(data.train, "train"), (data.val, "validation"), (data.test, "test")]):
        assert images_and_labels(records) == expected(labels[split], start=100 * i)
        assert [record.id for record in records] == [f"{split}/{j}" for j in range(len(records))]
    again = tfds.find_tfds("toys:1.2.3", tmp_path, seed=2).accepted()
    assert again == data and len(set(data.train)) == len({repr(r.source) for r in data.train}) == 20
    write(tmp_path / "other", "toys", {split: examples(x) for split, x in labels.items()})
    other = tfds.find_tfds("toys", tmp_path / "other", seed=1).accepted()
    assert repr(other.test[0].source) != repr(data.test[0].source)
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda r: r.source(), data.train * 20)] == [r.source() for r in again.train] * 20
    assert open_image(data.train[0]).size == (9, 8)


@pytest.mark.parametrize(
    "kind", ["memory", pytest.param("s3", marks=pytest.mark.long), pytest.param("gs", marks=pytest.mark.long)]
)
def test_what_lies_in_a_bucket_is_the_same_on_every_machine(tmp_path, monkeypatch, kind):
    write(tmp_path, "toys", {"train": examples([0, 1] * 5), "test": examples([1, 0], start=100)})
    with emulators.bucket(kind) as url:
        place = open_bucket(f"{url}/data")
        for file in (path for path in (tmp_path / "toys").rglob("*") if path.is_file()):
            place.put(file.relative_to(tmp_path).as_posix(), file.read_bytes())
        place.put("others/1.0.0/large", b"which nobody asked for")

        def on_a_machine(name):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
            return sources.load_dataset("tfds:toys", place.url)

        one, other = on_a_machine("one"), on_a_machine("other")
    assert images_and_labels(one.test) == expected([1, 0], start=100)
    assert [repr(x.source) for x in one.train] == [repr(x.source) for x in other.train]
    assert not [*tmp_path.glob("one/**/large")]


def test_a_dataset_of_tfds_itself(tmp_path, monkeypatch):
    """Read by TFDS's own code for it, with masks that are not decoded."""
    pets, box = library.builder_cls("oxford_iiit_pet"), library.features.BBox(0.0, 0.0, 0.5, 0.5)
    mask = encoded(0, "PNG", (8, 9))

    def of(start):
        more = {"species": 0, "file_name": "x.jpg", "head_bbox": box}
        pictures = examples([*range(37)] * 3, start, **more)
        return [{**example, "segmentation_mask": io.BytesIO(mask)} for example in pictures]

    write(
        tmp_path, "oxford_iiit_pet", {"train": of(0), "test": of(500)}, base=pets, pkg_dir_path=pets.pkg_dir_path
    )
    monkeypatch.setattr(Image, "open", None)  # nothing may be decoded
    data = tfds.find_tfds("oxford_iiit_pet", tmp_path, seed=1).accepted()
    assert data.name.startswith("tfds:oxford_iiit_pet/") and data.class_names[0] == "Abyssinian"
    assert images_and_labels(data.test) == expected([*range(37)] * 3, start=500)
    assert images_and_labels(data.train + data.val) == expected([*range(37)] * 3)
    assert sorted(record.label for record in data.val) == [*range(37)]


SPLITS = {
    "no validation": (["train", "test"], (16, 4, 20)),
    "no test": (["train", "validation"], (16, 4, 20)),
    "one split": (["train"], (10, 4, 6)),
    "one split of another name": (["full"], (10, 4, 6)),
    "unlabelled": (["train", "test", "unlabelled"], (16, 4, 20)),
}


@pytest.mark.parametrize("case", SPLITS)
def test_what_is_missing_is_cut_off(tmp_path, case):
    names, sizes = SPLITS[case]
    write(tmp_path, "toys", {name: examples([0, 1] * 10, 50 * i) for i, name in enumerate(names)})
    data = tfds.find_tfds("toys", tmp_path, seed=1).accepted()
    assert tuple(map(len, data[2:])) == sizes
    assert data == tfds.find_tfds("toys", tmp_path, seed=1).accepted()
    assert {r.id for r in data.train} != {r.id for r in tfds.find_tfds("toys", tmp_path, seed=2).accepted().train}
    assert splits.rows(data)["train"][0][2] in NAMES


def test_a_test_set_without_labels_is_not_used(tmp_path):
    """As ImageNet's."""
    parts = {"train": [0, 1] * 5, "validation": [0, 1] * 3, "test": [-1] * 4}
    write(tmp_path, "toys", {split: examples(labels) for split, labels in parts.items()})
    data = tfds.find_tfds("toys", tmp_path, seed=1).accepted()
    assert [r.id for r in data.test] == [f"validation/{i}" for i in range(6)]


# ------------------------------------------------------------------------------------------------ refusals


def refused(name, folder):
    with pytest.raises(InputError) as caught:
        tfds.find_tfds(name, folder, seed=1).accepted()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fgvc_aircraft", "TFDS does not have fgvc_aircraft: .*CoOp"),
        ("ucf101:2.0.0", "TFDS does not have ucf101: .*CoOp"),
        ("oxford_pets", "it is oxford_iiit_pet there"),
        ("stanford_cars/x", "it is cars196 there"),
        ("oxford_flower102", "did you mean 'oxford_flowers102'"),
        ("zzzz", "no 'zzzz', and none lies in its folder"),
        ("eurosat/nonsense", "cannot be opened .*nonsense"),
        ("mnist:0.0.7", "cannot be opened .*0.0.7"),
        ("two words", "cannot be opened"),
        ("dtd", "not prepared in .*dtd.*run once: tfds build dtd --file_format=array_record --data_dir="),
    ],
)
def test_what_is_not_there_is_said(tmp_path, name, expected):
    with pytest.raises(InputError, match=expected):
        tfds.find_tfds(name, tmp_path, seed=1).accepted()
    assert not [*tmp_path.iterdir()]  # nothing is downloaded


def test_names_of_papers_are_those_of_tfds():
    known = library.list_builders(with_community_datasets=False)
    assert all(name in known for name in tfds.NAMES.values() if name)
    assert not tfds.NAMES.keys() & set(known)


def test_other_formats_are_refused_with_the_command(tmp_path):
    write(tmp_path, "toys", {"train": examples([0, 1])})
    for file in [*(tmp_path / "toys" / "1.2.3").iterdir()]:
        if "array_record" in file.name:
            file.rename(str(file).replace("array_record", "tfrecord"))
        elif file.name == "dataset_info.json":
            file.write_text(file.read_text().replace("array_record", "tfrecord"))
    message = refused("toys", tmp_path)
    assert "prepared as tfrecord" in message and "tfds convert_format --dataset_version_dir=" in message


def test_other_tasks_are_refused(tmp_path):
    features = {"text": library.features.Text(), "label": library.features.ClassLabel(names=NAMES)}
    write(tmp_path, "texts", {"train": [{"text": "x", "label": 0}]}, features)
    assert refused("texts", tmp_path) == (
        "tfds:texts is no image classification; its features: label (ClassLabel), text (Text)"
    )


def test_all_problems_are_named_at_once(tmp_path):
    features = {
        "image": library.features.Image(),
        "label": library.features.ClassLabel(names=["ant", "Ant", "bee"]),
    }
    write(tmp_path, "toys", {"train": examples([0, 1, 0, 1]), "test": examples([0, 1, 2, -1])}, features)
    message = refused("toys", tmp_path)
    for part in ("labels without a name: -1", "classes with one name: 'ant' = 'Ant'", "training image: bee"):
        assert part in message


def test_only_a_test_split_does_not_train(tmp_path):
    write(tmp_path, "toys", {"test": examples([0, 1] * 4)})
    assert "splits without an image: train" in refused("toys", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_files_are_named(tmp_path, damage):
    write(tmp_path, "toys", {"train": examples([0, 1] * 10), "test": examples([0, 1])})
    file = next((tmp_path / "toys" / "1.2.3").glob("*train*"))
    file.write_bytes(file.read_bytes()[:100]) if damage == "cut" else file.unlink()
    assert "the files of train cannot be read" in refused("toys", tmp_path)
