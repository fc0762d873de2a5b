"""The embedded digits: a split that may never change, and scikit-learn's own images."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pini_jax.data.datasets import digits
from pini_jax.data.datasets.records import list_hash, open_image

# Results are comparable only as long as these stand.
SPLITS = {
    "train": (539, "c6ce73b12b34513d6cdfb4e5225b03fde85bc6218c1be914e5466c06e88a8d2f"),
    "val": (253, "1d1f904b1cb6669578ba1bfca2676dd30e12a57d641a73c179fcb1f0b0a15044"),
    "test": (1005, "5edbc0ed4890fc489aa83b794af86a4c19432914b146e9b04476ba689a97b084"),
}


@pytest.fixture(scope="module")
def data():
    return digits.load_digits()


@pytest.mark.parametrize("split", SPLITS)
def test_the_split_stands(data, split):
    records = getattr(data, split)
    assert (len(records), list_hash(records)) == SPLITS[split]


def test_every_digit_is_in_one_split(data):
    ids = [record.id for record in data.train + data.val + data.test]
    assert sorted(ids) == [f"digits/{i:04d}" for i in range(1797)]


def test_splits_are_stratified(data):
    parts = [np.bincount([r.label for r in split], minlength=10) for split in (data.train, data.val, data.test)]
    fractions = np.array(parts) / np.bincount(load_digits().target)
    np.testing.assert_allclose(fractions, np.broadcast_to([[0.30], [0.14], [0.56]], (3, 10)), atol=0.005)


def test_images_and_labels_are_those_of_scikit_learn(data):
    theirs = load_digits()
    assert data.class_names[3] == "three" and len(data.class_names) == 10
    for record in data.train + data.val + data.test:
        i = int(record.id.removeprefix("digits/"))
        assert record.label == theirs.target[i]
        ink = np.asarray(open_image(record))
        assert ink.shape == (8, 8, 3)
        np.testing.assert_array_equal(np.round(ink / (255 / 16)), np.repeat(theirs.images[i][..., None], 3, -1))
