"""None of these: scores and thresholds."""

import numpy as np
import pytest
import sklearn.metrics

from pini_jax.evaluate import rejection

chance = np.random.default_rng(0)


def test_auroc_and_false_positives_are_scikit_learns():
    known, unknown = chance.normal(1, 1, 300).round(1), chance.normal(0, 1, 200).round(1)  # with ties
    found = rejection.separation(known, unknown)
    truth, score = np.repeat([1, 0], [300, 200]), np.concatenate([known, unknown])
    assert found.auroc == pytest.approx(sklearn.metrics.roc_auc_score(truth, score))
    fpr, tpr, _ = sklearn.metrics.roc_curve(truth, score, drop_intermediate=False)
    assert found.fpr == pytest.approx(fpr[np.argmax(tpr >= rejection.RECALL)])


def test_most_known_images_reach_the_threshold():
    for images in (1, 3, 20, 1000):
        known = chance.normal(size=images)
        assert (known >= rejection.cut_off(known)).mean() >= rejection.RECALL
    assert rejection.cut_off(np.zeros(0)) == -np.inf
