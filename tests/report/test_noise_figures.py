"""What the noise of a run looks like."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_protocols import folder

from pini_jax import config
from pini_jax.report import noise_figures as figures
from pini_jax.report import style
from pini_jax.runs import experiment
from pini_jax.use import classifier as predict

pytestmark = pytest.mark.long  # a run with noise on pixels is trained
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
    workdir = tmp_path_factory.mktemp("runs")
    settings = SETTINGS | {"dataset": f"folder:{folder(workdir / 'images')}"}
    experiment.train_and_evaluate(config.resolve(settings), workdir / "run")
    return workdir / "run"


def test_every_figure_of_a_run_is_drawn(run, tmp_path):
    drawn = figures.draw_noise(predict.load_classifier(run))
    assert [figure.name for figure in drawn] == ["tokens", "maps"]
    for figure in drawn:
        path = style.save(figure, tmp_path)
        assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 10
        assert path.with_suffix(".pdf").exists() and figure.alt


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
