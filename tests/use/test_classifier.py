"""The classifier that a run exports agrees with the run's own evaluation."""

import json
import subprocess
import sys

import commands
import jax
import numpy as np
import pytest
from PIL import Image

from pini_jax.core.errors import InputError
from pini_jax.core.paths import cache_folder
from pini_jax.data.datasets import digits
from pini_jax.evaluate import metrics
from pini_jax.evaluate import prediction as evaluate
from pini_jax.use import classifier as predict


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    commands.finish(commands.start(folder, "--config.optim.epochs=10"))
    return folder


@pytest.fixture(scope="module")
def classifier(workdir):
    return predict.load_classifier(workdir)


def test_programs_are_kept_unless_the_process_keeps_them_elsewhere(workdir, tmp_path):
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        for chosen, kept in ((None, cache_folder() / "programs"), (tmp_path, tmp_path)):
            jax.config.update("jax_compilation_cache_dir", chosen and str(chosen))
            predict.load_classifier(workdir)
            assert jax.config.jax_compilation_cache_dir == str(kept)
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


@pytest.fixture(scope="module")
def test_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    records = digits.load_digits().test
    for i, record in enumerate(records):
        (folder / f"{i:04d}.png").write_bytes(record.source)
    return sorted(folder.iterdir()), np.array([record.label for record in records])


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_same_numbers_as_the_run(workdir, classifier, test_images, mode):
    paths, labels = test_images
    probabilities = classifier(paths, mode)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    reported = json.loads((workdir / "result.json").read_text())["test"][mode]
    found = metrics.metrics(np.log(probabilities), labels)._asdict()
    assert found["accuracy"] == reported["accuracy"]
    for name in ("nll", "ece", "brier", "adaptive_ece"):  # probabilities are calibrated by default
        assert found[name] == pytest.approx(reported[f"calibrated_{name}"], abs=1e-4)


def test_sets_and_doubt_are_those_of_the_run(workdir, classifier, test_images):
    paths, labels = test_images
    reported = json.loads((workdir / "result.json").read_text())["doubt"]["modes"]["mean"]
    probabilities, doubt = classifier(paths), classifier.doubt()
    plausible = doubt.plausible(probabilities)
    assert plausible[np.arange(len(labels)), labels].mean() == pytest.approx(
        reported["sets"]["lac"]["coverage"], abs=0.01
    )
    assert plausible.any(1).all()
    assert classifier.unsure(paths).mean() == pytest.approx(reported["unsure"], abs=0.01)


def test_any_size_and_mode_of_image(classifier, tmp_path):
    for mode, size in (("RGBA", (40, 30)), ("L", (7, 9)), ("P", (300, 200)), ("1", (24, 24))):
        Image.new(mode, size).save(tmp_path / f"{mode}.png")
    assert classifier(sorted(tmp_path.iterdir())).shape == (4, 10)


def test_command_prints_a_line_per_image(workdir, test_images):
    paths, labels = test_images
    command = [sys.executable, "-m", "pini_jax.predict", f"--workdir={workdir}", *map(str, paths[:3])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in paths[:3]]
    assert all(row[1] in digits.CLASS_NAMES and row[2].endswith("%") for row in rows)


def test_missing_injector_and_image(classifier, tmp_path):
    with pytest.raises(InputError, match="there is no injector"):
        predict.load_classifier(tmp_path)
    with pytest.raises(InputError, match="nothing.png cannot be read"):
        classifier([tmp_path / "nothing.png"])
