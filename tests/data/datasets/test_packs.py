"""Packs of features: read, checked, and trained on without towers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pini_jax import config
from pini_jax.core.errors import InputError
from pini_jax.data import selection as fewshot
from pini_jax.data.datasets import packs, sources
from pini_jax.noise import sites
from pini_jax.runs import experiment
from pini_jax.use import classifier as predict

DATA = os.environ.get("PINI_DATA_DIR")
NOISE = sites.noise_with_defaults({"image_features": {"generator": "cross_attention", "reduction": 4}})


def arrays(classes=3, per_class=8, width=16, seed=0):
    """Features of unequal norm around their class's text."""
    rng = np.random.default_rng(seed)
    text = rng.standard_normal((classes, width))

    def images(number):
        labels = np.arange(classes).repeat(number)
        return (3 * (text[labels] + rng.standard_normal((len(labels), width)))).astype(np.float16), labels

    (train_x, train_y), (test_x, test_y) = images(per_class), images(5)
    return dict(
        train_x=train_x,
        train_y=train_y.astype(np.int16),
        test_x=test_x,
        test_y=test_y,
        text=text.astype(np.float16),
        classnames=np.array(["ant", "bee", "cow"][:classes]),
    )


@pytest.fixture
def path(tmp_path):
    def save(**changes):
        content = {key: value for key, value in (arrays() | changes).items() if value is not None}
        np.savez(tmp_path / "pack.npz", **content)
        return tmp_path / "pack.npz"

    return save


def test_features_have_unit_norm_and_single_precision(path):
    pack = packs.load_pack(path())
    data = pack.findings.accepted()
    assert (len(data.train), len(data.val), len(data.test)) == (24, 0, 15)
    images = np.stack([pack.images[record.id] for record in data.train])
    for features in (images, pack.text):
        assert features.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-6)
    assert (data.class_names, pack.logit_scale) == (("ant", "bee", "cow"), 100.0)
    expected = arrays()["train_x"][9].astype(np.float32)
    np.testing.assert_allclose(images[9], expected / np.linalg.norm(expected), atol=1e-6)


def test_what_a_pack_may_say_besides(path):
    given = arrays(seed=1)
    pack = packs.load_pack(
        path(
            val_x=given["test_x"],
            val_y=given["test_y"],
            train_paths=np.array([f"images/{i}.jpg" for i in range(24)]),
            logit_scale=np.float32(50),
        )
    )
    data = pack.findings.accepted()
    assert (len(data.val), data.train[3].id, pack.logit_scale) == (15, "train/images/3.jpg", 50.0)


def cut(array):
    return array[:-1]


def with_one(array, row, value):
    """One number changed."""
    array = array.copy()
    array[row, 1] = value
    return array


DAMAGE = {
    "no text": (dict(text=None), "lacks text"),
    "fewer texts": (dict(text=arrays()["text"][:2]), "text has shape .2, 16. for 3 class names"),
    "other width": (dict(test_x=arrays(width=9)["test_x"]), "test_x has shape"),
    "fewer labels": (dict(train_y=cut(arrays()["train_y"])), "train_y must be 24 whole numbers"),
    "fractions": (dict(train_y=arrays()["train_y"] / 2), "train_y must be 24 whole numbers"),
    "half a split": (dict(val_y=arrays()["test_y"]), "val_x and val_y must come together"),
    "two scales": (dict(logit_scale=np.ones(2)), "logit_scale must be one positive number"),
    "no scale": (dict(logit_scale=np.float32(0)), "logit_scale must be one positive number"),
    "words": (dict(test_x=np.array(["a"] * 15)), "test_x must be numbers"),
    "a single axis": (dict(train_x=np.float32(3)), "train_x has shape"),
    "a text of zeros": (dict(text=arrays()["text"] * 0), "text has features that are zero"),
    "a zero": (dict(train_x=arrays()["train_x"] * 0), "train_x has features that are zero .*_x.9., and 14 more"),
    "not a number": (dict(test_x=with_one(arrays()["test_x"], 7, np.nan)), r"test_x has .* finite: test_x\[7\]$"),
    "endless": (dict(text=with_one(arrays()["text"], 2, np.inf)), r"text has .* finite: text\[2\]$"),
    "beyond single precision": (
        dict(train_x=with_one(arrays()["train_x"].astype(float), 3, 1e200)),
        r"train_x has .* finite: train_x\[3\]$",
    ),
    "imaginary": (dict(train_x=arrays()["train_x"] * 1j), "train_x must be numbers"),
    "objects": (dict(classnames=np.array(["ant", "bee", None])), "classnames holds Python objects"),
    "names in a square": (dict(classnames=np.array([["ant", "bee", "cow"]])), "classnames has shape .1, 3."),
    "no width": (dict(text=np.zeros((3, 0)), train_x=np.zeros((24, 0))), "text has shape .3, 0."),
    "labels of no whole numbers": (dict(train_y=np.ones(24, bool)), "train_y must be 24 whole numbers, not bool"),
    "no name": (dict(test_y=arrays()["test_y"] + 1), "test_y without a class name.*: 3"),
    "an empty name": (dict(classnames=np.array(["ant", "bee", " "])), "labels without a name: 2"),
    "no image": (dict(train_y=np.zeros(24, int)), "classes without a training image: bee, cow"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_fit_is_named(path, damage):
    changes, words = DAMAGE[damage]
    with pytest.raises(InputError, match=words):
        sources.load_dataset(f"features:{path(**changes)}", "")


def test_two_problems_are_one_error(path):
    with pytest.raises(InputError, match=r"train_y must be .*; test_x has shape"):
        packs.load_pack(path(train_y=arrays()["train_y"] / 2, test_x=arrays(width=9)["test_x"]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "pack.npz").write_bytes(content)
    with pytest.raises(InputError, match="pack.npz cannot be read"):
        packs.load_pack(tmp_path / "pack.npz")
    with pytest.raises(InputError, match="there is no feature pack"):
        packs.load_pack(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["crane", "crane", "ant"], ["crane (1)", "crane (2)", "ant"]),
        (["a", "a", "a (1)"], ["a (2)", "a (3)", "a (1)"]),
        (["a", "a", "a"], ["a (1)", "a (2)", "a (3)"]),
        (["ant", "Ant", "ant_"], ["ant", "Ant", "ant_"]),
    ],
)
def test_classes_of_one_name_get_numbers(path, caplog, given, named):
    """Names are labels only here: ImageNet has two cranes."""
    data = packs.load_pack(path(classnames=np.array(given))).findings.accepted()
    assert list(data.class_names) == named
    assert ("classes with one name, which are told apart by numbers" in caplog.text) == (given != named)


def test_numbers_are_no_names_that_say_nothing(path, caplog):
    assert packs.load_pack(path(classnames=np.arange(3))).findings.accepted().class_names == ("0", "1", "2")
    assert not caplog.records


def test_names_that_cannot_be_written_are_escaped(path):
    names = (
        packs.load_pack(path(classnames=np.array([b"caf\xe9", b"bee", b"cow"]))).findings.accepted().class_names
    )
    assert names == ("caf\\xe9", "bee", "cow")


def test_a_run_of_two_classes_of_one_name(path, tmp_path):
    given, names = path(), np.array(["crane", "bee", "crane"])
    expected = run(given, tmp_path / "other")["zero_shot"]
    assert run(path(classnames=names), tmp_path / "run")["zero_shot"] == expected


@pytest.mark.parametrize("key", ["classnames", "text", "train_x"])
def test_a_bomb_is_refused(path, tmp_path, key):
    content = dict(arrays()) | {key: np.zeros((1 << 14, 1 << 14), np.uint8)}
    np.savez_compressed(tmp_path / "pack.npz", **content)
    with pytest.raises(InputError, match="pack.npz cannot be read .its arrays take .* at most"):
        packs.load_pack(tmp_path / "pack.npz")


def test_a_bomb_that_nobody_reads_is_not_read(path, tmp_path):
    np.savez_compressed(tmp_path / "pack.npz", **arrays(), other=np.zeros((1 << 14, 1 << 14), np.uint8))
    assert packs.load_pack(tmp_path / "pack.npz").findings.accepted().class_names == ("ant", "bee", "cow")


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for name in (tmp_path / "pipe.npz", Path("/dev/zero"), tmp_path, Path("x" * 5000)):
        with pytest.raises(InputError, match="there is no feature pack"):
            packs.load_pack(name)


SHAPES = [(), (0,), (3,), (24,), (3, 16), (24, 16), (15, 16), (24, 0), (3, 4, 4), (1 << 12,)]
DTYPES = ["f2", "f4", "f8", "i1", "i8", "u8", "?", "c8", "U0", "U5", "S3", "V4", "M8[s]", "f4,i4"]


@pytest.mark.parametrize("seed", range(150))
def test_any_arrays_are_a_pack_or_a_line(tmp_path, seed):
    """Random kinds and shapes in the place of some arrays."""
    chance = np.random.default_rng(seed)
    content = arrays()
    for key in chance.choice([*packs.KEYS], size=chance.integers(1, 4), replace=False):
        shape, dtype = SHAPES[chance.integers(len(SHAPES))], np.dtype(DTYPES[chance.integers(len(DTYPES))])
        array = np.frombuffer(chance.bytes(dtype.itemsize * int(np.prod(shape))) or b"", np.uint8)
        if dtype.kind == "U" and seed % 2:  # most numbers are no characters
            array = np.ascontiguousarray(array.view("u4") % 0x110000).view(np.uint8)
        content[key] = np.ndarray(shape, dtype, array.tobytes())
    np.savez(tmp_path / "pack.npz", **content)
    try:
        pack = packs.load_pack(tmp_path / "pack.npz")
        data = pack.findings.accepted()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 5000
        return
    assert np.isfinite(pack.text).all() and 0 < pack.logit_scale < np.inf
    for record in data.train + data.val + data.test:
        assert 0 <= record.label < len(data.class_names)
        assert np.linalg.norm(pack.images[record.id]) == pytest.approx(1, abs=1e-5)
        assert record.id.encode()


def test_the_selection_permutes_each_class(path):
    """By the rule written out: one generator, classes in order, train then validation."""
    data = packs.load_pack(path()).findings.accepted()
    selected = fewshot.select_from_pack(data, shots=2, seed=5)
    rng, labels = np.random.default_rng(5), arrays()["train_y"]
    orders = [rng.permutation(np.flatnonzero(labels == c)) for c in range(3)]
    for split, part in ((selected.train, slice(0, 2)), (selected.val, slice(2, 4))):
        assert [record.id for record in split] == [f"train/{i}" for order in orders for i in order[part]]


def run(path, workdir, **changes):
    settings = dict(dataset=f"features:{path}", clip="", views=1, shots=2, num_draws=2, noise=NOISE)
    settings |= {"optim": {"epochs": 3, "lr": 0.1}}
    return experiment.train_and_evaluate(config.resolve(settings | changes), workdir)


def test_a_run_from_features_to_a_result(path, tmp_path):
    file = path()
    result = run(file, tmp_path / "run")
    assert (result["num_classes"], result["num_train"], result["num_test"]) == (3, 6, 15)
    given = arrays()
    cosine = (
        given["test_x"].astype(float)
        @ (given["text"] / np.linalg.norm(given["text"].astype(float), axis=1, keepdims=True)).T
    )
    assert result["zero_shot"]["accuracy"] == pytest.approx((cosine.argmax(1) == given["test_y"]).mean())
    rows = json.loads((tmp_path / "run" / "selection.json").read_text())
    assert len(rows["train"]) == 6 and rows["sha256"] == result["selection_sha256"]
    classifier = predict.load_classifier(tmp_path / "run")
    assert classifier(given["test_x"].astype(np.float32)).shape == (15, 3)
    with pytest.raises(InputError, match="features made elsewhere"):
        classifier([tmp_path / "no.png"])


def test_base_to_new_takes_the_texts_of_each_half(path, tmp_path):
    """On five classes: three and two."""
    given = arrays(classes=5)
    result = run(path(**given | {"classnames": np.array(list("abcde"))}), tmp_path / "run", classes="base")
    assert (result["num_classes"], result["unseen"]["new"]["num_classes"]) == (3, 2)
    text = given["text"].astype(float) / np.linalg.norm(given["text"].astype(float), axis=1, keepdims=True)
    new = given["test_y"] >= 3
    correct = (given["test_x"][new].astype(float) @ text[3:].T).argmax(1) == given["test_y"][new] - 3
    assert result["unseen"]["new"]["zero_shot"]["accuracy"] == pytest.approx(correct.mean())


def test_a_half_of_one_class_is_no_task(path, tmp_path):
    with pytest.raises(InputError, match="3 classes: base-to-new takes four or more"):
        run(path(), tmp_path / "run", classes="base")


def test_names_of_images_that_repeat_are_numbered(path):
    """Files of different folders, without the folders."""
    pack = packs.load_pack(path(train_paths=np.array([f"{i % 8}.jpg" for i in range(24)])))
    train = pack.findings.accepted().train
    assert len({record.id for record in train}) == 24
    expected = arrays()["train_x"][17].astype(np.float32)
    np.testing.assert_allclose(pack.images[train[17].id], expected / np.linalg.norm(expected), atol=1e-6)


def test_a_scale_with_an_axis_and_names_of_bytes(path):
    pack = packs.load_pack(path(logit_scale=np.array([50.0]), classnames=np.array([b"ant", b"bee", b"cow"])))
    assert (pack.logit_scale, pack.findings.dataset.class_names) == (50.0, ("ant", "bee", "cow"))


def test_sites_that_need_towers_are_refused(path, tmp_path):
    noise = sites.noise_with_defaults({"prompt_tokens": {"generator": "table"}})
    with pytest.raises(InputError, match="noise at prompt_tokens needs the towers, and a feature pack has none"):
        run(path(), tmp_path / "run", noise=noise)
    with pytest.raises(InputError, match="their text features are fixed"):
        run(path(), tmp_path / "run", zero_shot_template="imagenet_80")


def test_a_run_does_not_go_on_with_other_data(path, tmp_path):
    run(path(), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    run(path(), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    given = arrays(per_class=9)
    with pytest.raises(InputError, match="the data have changed since .*selection.json was written"):
        run(path(train_x=given["train_x"], train_y=given["train_y"]), tmp_path / "run")


@pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR is not set")
def test_zero_shot_accuracy_on_dtd(tmp_path):
    result = run(Path(DATA, "features", "dtd_vitb32.npz"), tmp_path / "run", shots=1)
    assert result["num_test"] == 1692
    assert round(100 * result["zero_shot"]["accuracy"], 1) == 44.7
