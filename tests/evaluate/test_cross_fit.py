"""Images of the selection are judged by what has not seen them."""

import numpy as np
import pytest
from test_packs import arrays

from pini_jax import config
from pini_jax.evaluate import cross_fit, result
from pini_jax.task import run as runs

METHODS = ("zero_shot", "gda", "task_res", "tip_adapter")


def planned(tmp_path, method, shots=4, epochs=2):
    np.savez(tmp_path / "pack.npz", **arrays())
    settings = {"dataset": "features:pack.npz", "data_dir": str(tmp_path), "clip": "", "views": 1}
    settings |= {"method": method, "shots": shots, "optim": {"epochs": epochs}}
    resolved = config.resolve(settings)
    return runs.plan(resolved, tmp_path, runs.share(resolved))


@pytest.mark.parametrize("method", METHODS)
def test_every_image_is_left_out_once(method, tmp_path):
    run = planned(tmp_path, method)
    folds = list(cross_fit.fits(run))
    assert sorted(np.concatenate([fold.images for fold in folds])) == list(range(len(run.data.train)))


@pytest.mark.parametrize("method", ["gda", "task_res"])
def test_what_is_left_out_changes_nothing(method, tmp_path):
    """A fold's labels, turned around, are not seen by its own fit."""
    run = planned(tmp_path, method)
    first = next(cross_fit.fits(run))
    classes = len(run.data.class_names)
    train = list(run.data.train)
    for i in first.images:
        train[i] = train[i]._replace(label=(train[i].label + 1) % classes)
    left_out = np.isin(np.arange(len(train)), first.images)
    again = cross_fit.train_fold(
        cross_fit.without(run._replace(data=run.data._replace(train=tuple(train))), left_out)
    )
    for name, x in first.variables.phi.items():
        np.testing.assert_array_equal(x, again.phi[name])


def test_it_is_due_where_it_can_be(tmp_path, monkeypatch):
    assert cross_fit.is_due(planned(tmp_path, "task_res"))
    assert not cross_fit.is_due(planned(tmp_path, "task_res", shots=1)), "a class would have no image"
    monkeypatch.setattr(cross_fit, "ENOUGH", 1)
    assert not cross_fit.is_due(planned(tmp_path, "task_res")), "validation images are enough"


def test_trained_again_without_a_fold_it_is_the_run_on_the_rest(tmp_path):
    """Of nothing left out, what training gives."""
    run = planned(tmp_path, "task_res")
    whole = cross_fit.train_fold(run)
    same = cross_fit.train_fold(cross_fit.without(run, np.zeros(len(run.data.train), bool)))
    np.testing.assert_array_equal(whole.phi["residual"], same.phi["residual"])


def test_predictions_say_whom_they_calibrate_by(tmp_path):
    run = planned(tmp_path, "gda")
    kept = result.predict_splits(run, cross_fit.train_fold(run), result.open_splits([run]))
    assert kept.calibrated_on == "held_out"
    assert len(kept.answers["held_out"]["mean"].label) == len(run.data.train) + len(run.data.val)
    assert kept.temperatures["mean"] != 1


def test_a_method_that_refuses_so_few_images_is_calibrated_without(tmp_path, caplog):
    """Without a fold of two shots gda has one feature per class; the run itself is fine."""
    run = planned(tmp_path, "gda", shots=2)
    kept = result.predict_splits(run, cross_fit.train_fold(run), result.open_splits([run]))
    assert kept.calibrated_on == "val" and "calibrates nothing" in caplog.text
