"""A finished run on other images, without training."""

import json
import shutil

import emulators
import numpy as np
import pytest

from pini_jax import config
from pini_jax import evaluation as command
from pini_jax.core import mirror
from pini_jax.core.bucket import open_bucket
from pini_jax.core.errors import InputError
from pini_jax.evaluate import predictions
from pini_jax.runs import evaluation, experiment, folder

NAMES = np.array(["ant", "bee", "cat", "dog"])
WIDTH = 16


def write_pack(path, names, per_class=6, seed=0, width=WIDTH):
    """Classes of a name lie at the same place in every pack."""
    chance, own = np.random.default_rng(seed), np.random.default_rng(99)
    centres = dict(zip([*NAMES, "eel", "fox"], own.normal(size=(6, width)), strict=True))
    labels = np.repeat(np.arange(len(names)), per_class)
    text = np.array([centres[name] for name in names])
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_x"] = text[labels] + 0.7 * chance.normal(size=(len(labels), width))
        arrays[f"{split}_y"] = labels
    np.savez(path, text=text, classnames=names, logit_scale=10.0, **arrays)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluation")
    write_pack(place / "own.npz", NAMES, per_class=8)
    write_pack(place / "other.npz", np.array(["dog", "eel", "ant"]), seed=1)
    write_pack(place / "unknown.npz", np.array(["eel", "fox"]), seed=2)
    write_pack(place / "wide.npz", NAMES, width=8)
    settings = {"dataset": "features:own.npz", "data_dir": str(place), "clip": "", "views": 1, "shots": 4}
    run = config.resolve(settings | {"method": "gda"})
    experiment.train_and_evaluate(run, place / "run")
    return place / "run"


def test_its_own_data_give_what_the_run_said(workdir):
    place, found = evaluation.evaluate(workdir)
    said = folder.read_sealed(workdir / "result.json")
    for key in ("zero_shot", "test", "information", "reliability"):
        assert found[key] == said[key]
    assert found["unknown"] == 0 and "rejection" not in found
    written = json.loads((place / "evaluation.json").read_text())
    assert written["test"] == found["test"]
    kept = predictions.read_predictions(place / "predictions.parquet", found["predictions_sha256"])
    assert len(kept.answers["test"]["mean"].label) == said["num_test"]


def test_labels_follow_the_names_of_the_classes(workdir):
    _, found = evaluation.evaluate(workdir, "features:other.npz")
    assert (found["images"], found["unknown"]) == (18, 6)
    assert found["test"]["mean"]["accuracy"] > 0.5  # by numbers it were chance
    assert set(found["rejection"]) == set(predictions.ALL_MODES)


def test_images_of_unknown_classes_alone_are_held_against_the_own_test(workdir):
    _, found = evaluation.evaluate(workdir, "features:unknown.npz")
    assert "test" not in found and found["unknown"] == 12
    scores = found["rejection"]["mean"]["scores"]
    assert all(0 <= x["auroc"] <= 1 for x in scores.values())


def test_the_run_is_left_as_it_was(workdir):
    before = {path: path.read_bytes() for path in workdir.glob("*") if path.is_file()}
    evaluation.evaluate(workdir)
    assert {path: path.read_bytes() for path in workdir.glob("*") if path.is_file()} == before


def test_what_the_run_has_answered_is_needed_where_nothing_else_is_known(workdir, tmp_path):
    bare = shutil.copytree(workdir, tmp_path / "run")
    (bare / "predictions.parquet").unlink()
    _, found = evaluation.evaluate(bare)
    assert found["test"] == folder.read_sealed(workdir / "result.json")["test"]
    with pytest.raises(InputError, match="no .*predictions.parquet: without its result.json, the run makes both"):
        evaluation.evaluate(bare, "features:unknown.npz")
    (bare / "result.json").unlink()
    experiment.train_and_evaluate(config.resolve(json.loads((bare / "config.json").read_text())), bare)
    again, before = ((place / "predictions.parquet").read_bytes() for place in (bare, workdir))
    assert again == before


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("features:wide.npz", "another width"),
        ("digits", "takes images"),
        ("features:no.npz", "there is no feature"),
    ],
)
def test_what_it_cannot_be_tested_on_is_one_clear_error(workdir, dataset, said):
    with pytest.raises(InputError, match=said):
        evaluation.evaluate(workdir, dataset)


def test_few_validation_images_are_joined_by_the_selection(workdir):
    """Each predicted by a fit that has not seen it."""
    said = folder.read_sealed(workdir / "result.json")
    assert said["doubt"]["source"] == "held_out" and said["doubt"]["held_out"] == 4 * 4 + 4 * 4
    kept = predictions.read_predictions(workdir / "predictions.parquet", said["predictions_sha256"])
    held_out = kept.answers["held_out"]["mean"]
    assert len(set(held_out.path)) == 32
    train = [path for path in held_out.path if path not in kept.answers["val"]["mean"].path]
    assert len(train) == 16


def test_a_run_in_a_bucket(workdir, capsys):
    """Its evaluation lies beside its other files."""
    with emulators.bucket("memory") as url:
        place = open_bucket(f"{url}/run")
        for name in mirror.kept_files(workdir):
            place.put(name, (workdir / name).read_bytes())
        values = command.flags.FlagValues()
        command.COMMAND.define_flags(values)
        values(["pini evaluate", f"--workdir={place.url}"])
        command.main(values)
        assert f"written to {place.url}/evaluations/features_own.npz" in capsys.readouterr().out
        assert json.loads(place.read("evaluations/features_own.npz/evaluation.json"))["unknown"] == 0
        assert place.read("result.json") == (workdir / "result.json").read_bytes()
