"""What members of a population share is predicted once, and to the same bits."""

import dataclasses

import numpy as np
from test_cross_fit import planned

from pini_jax.evaluate import cross_fit, result
from pini_jax.task import run as runs


def test_what_runs_classify_in_common_serves_all_of_them(tmp_path):
    """The test images of two seeds; the validation images are each one's own."""
    first = planned(tmp_path, "task_res")
    other = runs.plan(dataclasses.replace(first.config, seed=first.config.seed + 1), tmp_path, first.shared)
    assert first.data.val != other.data.val
    assert result.open_splits([first, first]).keys() == {"val", "test"}
    common = result.open_splits([first, other])
    assert common.keys() == {"test"}
    variables = cross_fit.train_fold(other)
    shared, alone = (result.predict_splits(other, variables, splits) for splits in (common, {}))
    for split, modes in alone.answers.items():
        for mode, answers in modes.items():
            for ours, theirs in zip(shared.answers[split][mode], answers, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_nothing_is_opened_for_no_run():
    assert result.open_splits([]) == {}
