"""A run whose CLIP is of the hub: the commit is recorded, and all that comes later uses it."""

import dataclasses
import shutil

import local_hub
import pytest
import tiny_clips
from huggingface_hub import constants
from test_protocols import folder as folder_of_images

from pini_jax import config as configs
from pini_jax import load_classifier
from pini_jax.core.errors import InputError
from pini_jax.runs import experiment, folder, injector, reproduce

ID, FIRST, SECOND = "owner/some-clip", "1" * 40, "2" * 40


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with two commits of a CLIP, of which the main branch names the first."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    commits = {
        commit: contents(tiny_clips.hugging_face_folder(tmp_path / commit, seed, layers=1))
        for seed, commit in enumerate((FIRST, SECOND))
    }
    server = local_hub.LocalHub({ID: local_hub.Repository(commits, {"main": FIRST})})
    with server.serving(monkeypatch):
        yield server


@pytest.fixture
def config(tmp_path):
    settings = {"method": "tip_adapter", "template": "x the {}.", "shots": 2, "views": 1, "noise": {}}
    dataset = f"folder:{folder_of_images(tmp_path / 'images')}"
    return configs.resolve(settings | {"dataset": dataset, "clip": f"{ID}@main"})


def move(hub, tmp_path):
    """The branch moves on, and what the cache has is gone."""
    hub.repositories[ID].refs["main"] = SECOND
    shutil.rmtree(tmp_path / "cache")


def test_the_commit_that_a_run_began_with_stays(hub, config, tmp_path):
    run = tmp_path / "run"
    first = experiment.train_and_evaluate(config, run)
    assert folder.read_sealed(run / "provenance.json")["clip"] == f"{ID}@{FIRST}"
    assert injector.load_run(run).config.clip == f"{ID}@{FIRST}" and first["clip"] == f"{ID}@main"
    move(hub, tmp_path)
    assert load_classifier(run).config.clip == f"{ID}@{FIRST}"
    (run / "result.json").unlink()
    assert experiment.train_and_evaluate(config, run)["clip_sha256"] == first["clip_sha256"]
    lines = reproduce.reproduce(run, tmp_path / "again")
    assert "all that was measured is the same to the bit" in lines
    other = experiment.train_and_evaluate(config, tmp_path / "other")
    assert other["clip_sha256"] != first["clip_sha256"]
    with pytest.raises(InputError, match="was trained on other weights"):
        load_classifier(run, clip=f"{ID}@{SECOND}")


def test_a_revision_that_there_is_not_is_told_before_anything_is_written(hub, config, tmp_path):
    wrong = dataclasses.replace(config, clip=f"{ID}@v9")
    with pytest.raises(InputError, match="has no revision v9"):
        experiment.train_and_evaluate(wrong, tmp_path / "run")
    assert not [*(tmp_path / "run").iterdir()]
