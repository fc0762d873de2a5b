"""What is kept of predictions: all of it comes back, and others read it too."""

import numpy as np
import pytest
import scipy.special

from pini_jax.core.errors import InputError
from pini_jax.evaluate import predictions
from pini_jax.evaluate.prediction import Predictions, summary
from pini_jax.evaluate.predictions import COLUMNS, KEPT, Answers, Kept

CLASSES = KEPT + 3


def predicted(classes: int, images: int = 5, seed: int = 0) -> Predictions:
    return summary(np.random.default_rng(seed).normal(size=(4, images, classes)).astype(np.float32), 2.0)


def answers_of(classes: int, temperature: float = 1.5) -> Answers:
    labels = np.array([0, classes - 1, -1, 1, 2])
    return predictions.answers([f"a/{i}.png" for i in range(5)], labels, predicted(classes), temperature)


@pytest.fixture
def kept() -> Kept:
    answers = {
        "val": {"zero_shot": answers_of(3, temperature=0.7), "mean": answers_of(3)},
        "new": {"zero_shot": answers_of(CLASSES, temperature=0.7), "mean": answers_of(2 + 1)},
    }
    return Kept(answers, {"val": ("cat", "naïve 猫", "x"), "new": ("b",)})


def test_a_file_comes_back_as_it_was(kept, tmp_path):
    path = tmp_path / "predictions.parquet"
    read = predictions.read_predictions(path, predictions.write_predictions(path, kept))
    assert {split: list(of_split) for split, of_split in read.answers.items()} == {
        "val": ["zero_shot", "mean"],
        "new": ["zero_shot", "mean"],
    }
    for split, of_split in kept.answers.items():
        for mode, wanted in of_split.items():
            for name, x, y in zip(Answers._fields, wanted, read.answers[split][mode], strict=True):
                np.testing.assert_array_equal(x, y, err_msg=name)
                assert name not in COLUMNS[1:] or x.dtype == y.dtype, name
    assert tuple(read.class_names["val"]) == kept.class_names["val"]
    assert list(read.temperatures) == ["mean", "sample", "marginal", "zero_shot"]
    assert list(read.temperatures.values()) == [1.5, 1.5, 1.5, 0.7]


def test_equal_predictions_make_equal_files(kept, tmp_path):
    first, second = (predictions.write_predictions(tmp_path / name, kept) for name in "ab")
    assert first == second
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_others_read_it(kept, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    predictions.write_predictions(tmp_path / "p.parquet", kept)
    table = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert [row["split"] for row in table] == ["val"] * 10 + ["new"] * 10
    assert table[0]["path"] == "a/0.png" and table[2]["label"] == -1
    assert table[10]["log_probabilities"] == kept.answers["new"]["zero_shot"].log_probabilities[0].tolist()


@pytest.mark.parametrize("content", [b"", b"PAR1", None])
def test_what_does_not_match_its_hash_is_named(content, kept, tmp_path):
    path = tmp_path / "predictions.parquet"
    sha256 = predictions.write_predictions(path, kept)
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(InputError, match="does not match its hash"):
        predictions.read_predictions(path, sha256)
    path.unlink()
    with pytest.raises(InputError, match="there is no"):
        predictions.read_predictions(path, sha256)


@pytest.mark.parametrize("classes", [3, CLASSES])
def test_what_is_kept_of_many_classes_is_exact(classes):
    """The sums are over all classes, however many are kept."""
    log_p = predicted(classes).log_probabilities.astype(np.float64)
    found = answers_of(classes, temperature=1.5)
    assert found.classes.shape == (5, min(classes, KEPT))
    np.testing.assert_array_equal(found.predicted, log_p.argmax(-1))
    wanted = scipy.special.log_softmax(log_p / 1.5, -1)
    np.testing.assert_allclose(found.calibrated, np.take_along_axis(wanted, found.classes, -1), rtol=1e-6)
    np.testing.assert_allclose(found.squares, np.exp(2 * log_p).sum(-1))
    np.testing.assert_allclose(found.calibrated_squares, np.exp(2 * wanted).sum(-1))
    np.testing.assert_array_equal(found.label_log_probability[[0, 1, 3]], log_p[[0, 1, 3], [0, classes - 1, 1]])
    assert np.isnan(found.label_log_probability[2]) and np.isnan(found.label_expected[2])


def test_of_equal_classes_the_first_is_predicted():
    labels = np.zeros(1, int)
    found = predictions.answers(["a"], labels, summary(np.zeros((1, 1, 9), np.float32), 1.0), 1.0)
    assert found.predicted.tolist() == [0]


@pytest.mark.parametrize("values", (2, 30, 10**6), ids="{} values".format)
def test_those_kept_are_the_first_of_a_whole_sort(values):
    """Where many are equal to the last one kept, and where none is."""
    log_p = np.random.default_rng(0).integers(values, size=(50, 3 * KEPT)).astype(np.float32)
    whole = np.argsort(-log_p, axis=-1, kind="stable")
    np.testing.assert_array_equal(predictions.likeliest(log_p), whole[:, :KEPT])


def test_images_that_are_summed_up_in_blocks_stay_in_order(monkeypatch):
    whole = answers_of(CLASSES)
    monkeypatch.setattr(predictions, "AT_ONCE", 2)
    for x, y in zip(answers_of(CLASSES), whole, strict=True):
        np.testing.assert_array_equal(x, y)


def test_draws_disagree_by_their_mutual_information():
    """0 where they say the same; all of log 2 where each is sure of another class."""
    same = summary(np.tile(np.log([[0.9, 0.1]]), (3, 1, 1)).astype(np.float32), 1.0)
    apart = summary(np.array([[[99.0, 0]], [[0, 99.0]]], np.float32), 1.0)
    for given, wanted in ((same, 0), (apart, np.log(2))):
        found = predictions.answers(["a"], np.array([0]), given, 1.0)
        assert found.entropy[0] - found.draw_entropy[0] == pytest.approx(wanted, abs=1e-6)
