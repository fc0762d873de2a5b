"""A whole run: what it writes for others, and what it says of its noise."""

import itertools
import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import tiny_clips
from commands import content, steps_saved
from safetensors import safe_open
from test_protocols import folder

from pini_jax import config
from pini_jax.data.datasets.records import Record
from pini_jax.runs import experiment
from pini_jax.runs import injector as export
from pini_jax.train.checkpoint import Checkpoints
from pini_jax.train.watch import Watch
from pini_jax.use import classifier as predict

NOISE = {
    "prompt_tokens": {"generator": "table", "initial_scale": 0.2},
    "text_features": {"generator": "table", "initial_scale": 0.2},
    "image_features": {"generator": "mlp", "control": "scale_only", "level": 0.1},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = tmp_path_factory.mktemp("data")
    return {
        "dataset": f"folder:{folder(made / 'images')}",
        "clip": str(tiny_clips.hugging_face_folder(made / "clip", layers=1)),
        "template": "x the {}.",
        "zero_shot_template": "the {}.",
        "shots": 2,
        "views": 1,
        "num_draws": 3,
        "optim": {"lr": 0.1, "epochs": 3},
    }


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """Noise of which no mean falls on images."""
    workdir = tmp_path_factory.mktemp("run")
    return experiment.train_and_evaluate(config.resolve(settings | {"noise": NOISE}), workdir), workdir


def test_cosines_with_the_written_embeddings_are_the_mean_s_prediction(run, settings):
    """With nothing else of this project than a CLIP's image features."""
    _, workdir = run
    classifier = predict.load_classifier(workdir)
    with safe_open(workdir / "classes.safetensors", framework="np") as file:
        embeddings, scale = file.get_tensor("embeddings"), float(file.get_tensor("logit_scale"))
        names = json.loads(file.metadata()[export.KEY])["class_names"]
    assert tuple(names) == classifier.class_names
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    paths = sorted(Path(settings["dataset"].removeprefix("folder:")).glob("*/*.jpg"))
    records = [Record(path.name, path, label=-1) for path in paths]
    features = np.asarray(classifier.frozen.images(records, "features"))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    p = scipy.special.softmax(scale * unit @ embeddings.T, axis=1)
    calibrated = classifier.doubt("mean").calibrated(np.log(p))
    np.testing.assert_allclose(calibrated, classifier(paths, "mean"), atol=1e-5)
    assert np.abs(calibrated - classifier(paths, "sample")).max() > 1e-3


def test_what_noise_tells_is_in_the_result(run):
    """In nats, on the test images; and how confident every kind of prediction is."""
    result, _ = run
    information = result["information"]
    usable = information["task_cross_entropy"] - information["conditional_entropy"]
    assert information["usable_information"] == pytest.approx(usable)
    assert information["task_cross_entropy"] == pytest.approx(result["zero_shot"]["nll"])
    # Jensen: the mean of logs is below the log of the mean.
    assert information["conditional_entropy"] > result["test"]["marginal"]["nll"]
    assert 0 < information["task_entropy"] < math.log(result["num_classes"])
    assert set(result["reliability"]) == {"zero_shot", "mean", "sample", "marginal"}
    for name, bins in result["reliability"].items():
        measured = result["zero_shot"] if name == "zero_shot" else result["test"][name]
        assert sum(bins["size"]) == result["num_test"]
        assert sum(bins["correct"]) == pytest.approx(measured["accuracy"] * result["num_test"])


def test_fixed_noise_takes_no_steps(settings, tmp_path):
    """There is nothing to learn, and nothing that is counted as learned."""
    noise = {
        site: {"generator": "mlp", "control": "random", "level": 0.3}
        for site in ("text_features", "image_features")
    }
    result = experiment.train_and_evaluate(config.resolve(settings | {"noise": noise}), tmp_path)
    assert (result["steps"], result["trainable_parameters"]) == (0, 0)
    assert result["test"]["sample"]["nll"] != result["test"]["mean"]["nll"]


def test_steps_go_on_while_a_checkpoint_is_written(settings, tmp_path, monkeypatch):
    """That of the second step is held up until the third has been taken."""
    calls, third, save = itertools.count(1), threading.Event(), Checkpoints.save

    def late(self, state, metrics_sha256):
        assert third.wait(300), "the loop waits for the checkpoint"
        save(self, state, metrics_sha256)

    monkeypatch.setattr(Checkpoints, "save", late)
    run = config.resolve(settings | {"noise": NOISE, "log_every": 2, "checkpoint_every": 2})
    experiment.train_together({tmp_path: run}, Watch(lambda done, total: next(calls) == 3 and third.set()))
    assert steps_saved(tmp_path) == [2, 3]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_earlier_ones_stay(settings, tmp_path, monkeypatch):
    """And the same command goes on from there."""
    run, save = (
        config.resolve(settings | {"noise": NOISE, "checkpoint_every": 1, "log_every": 1}),
        Checkpoints.save,
    )

    def full(self, state, metrics_sha256):
        if state.step == 2:
            raise OSError("disk full")
        save(self, state, metrics_sha256)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(Checkpoints, "save", full)
        experiment.train_and_evaluate(run, tmp_path / "run")
    assert steps_saved(tmp_path / "run") == [1]
    experiment.train_and_evaluate(run, tmp_path / "run")
    experiment.train_and_evaluate(run, tmp_path / "whole")
    assert content(tmp_path / "run") == content(tmp_path / "whole")
