"""Figures of runs: which are drawn, and what the noise of a run is."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_collect import result, write

from pini_jax import config
from pini_jax.report import collect as collection
from pini_jax.report import figures
from pini_jax.runs import experiment
from pini_jax.use import classifier as predict

NOISE = {
    "prompt_tokens": {"generator": "table"},
    "pixels": {"generator": "cross_attention"},
    "patch_tokens": {"generator": "mlp"},
}
SETTINGS = {
    "clip": "tiny_clip",
    "shots": 1,
    "views": 1,
    "num_draws": 1,
    "noise": NOISE,
    "template": "x x a photo of the digit {}.",
    "optim": {"epochs": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With noise on tokens, pixels and patches."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    experiment.train_and_evaluate(config.resolve(SETTINGS), workdir)
    return workdir


def test_every_figure_of_a_run_is_drawn(run, tmp_path):
    drawn = figures.draw(collection.read_runs([run]), tmp_path)
    assert drawn == list(figures.FIGURES)
    for name in drawn:
        assert len(np.unique(np.asarray(Image.open(tmp_path / name).convert("L")))) > 10


def test_runs_without_towers_have_no_maps(tmp_path):
    for seed in (1, 2):
        write(tmp_path / str(seed), result(4, seed, 0.5 + seed / 10))
    drawn = figures.draw(collection.read_runs([tmp_path]), tmp_path)
    assert drawn == ["accuracy.png", "reliability.png", "information.png"]


def test_the_noise_shown_is_that_of_the_run(run):
    """The table of the prompt is the trained one; noise of pixels depends on the image."""
    classifier = predict.load_classifier(run)
    size = classifier.frozen.clip.preprocessing.crop
    images = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    found = figures.gaussians(classifier, images)
    assert set(found) == set(NOISE)
    np.testing.assert_array_equal(
        found["prompt_tokens"].mean[0, 0], classifier.variables.phi["prompt_tokens"]["mean"]
    )
    assert found["pixels"].mean.shape == (1, 1, *images.shape)
    assert (jnp.abs(found["pixels"].mean[0, 0, 0] - found["pixels"].mean[0, 0, 1]) > 0).mean() > 0.9


def test_words_stand_over_their_first_tokens(run):
    classifier = predict.load_classifier(run)
    words = figures._words(classifier)
    assert [word for word in words if word] == ["x", "x", "a", "photo", "of", "the", "digit"]
    assert len(words) == len(classifier.text.prompts.prefix)


def test_confidence_bands_are_student_s():
    values = [0.5, 0.6, 0.7]
    assert figures._half_width(values) == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    assert figures._half_width([0.5]) == 0
