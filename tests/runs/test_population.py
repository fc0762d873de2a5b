"""Many runs from one config: each as if it had been alone, whether they train side by side or not."""

import json
import logging
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_clips import NOISE

from pini_jax import config
from pini_jax.core.errors import InputError
from pini_jax.runs import experiment, population
from pini_jax.train import memory
from pini_jax.train.recorder import Recorder

pytestmark = pytest.mark.usefixtures("optimised")

SETTINGS = {
    "clip": "tiny_clip",
    "views": 2,
    "num_draws": 2,
    "noise": NOISE,
    "template": "x x a photo of the digit {}.",
    "batch_size": 16,
    "log_every": 2,
    "checkpoint_every": 2,
    "optim": {"epochs": 4},
    # 1 shot is 10 images in one padded batch per epoch, 4 shots are two batches: 4 and 8 steps.
    "population": {"shots": (1, 4), "seed": (1, 2)},
}
TIMINGS = ("seconds", "steps_per_second", "peak_bytes", "seal")


def result(folder):
    return {k: v for k, v in json.loads((folder / "result.json").read_text()).items() if k not in TIMINGS}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Trained in lanes."""
    workdir = tmp_path_factory.mktemp("together")
    population.train_population(population.members(SETTINGS), workdir)
    assert {result(folder)["lanes"] for folder in folders(workdir)} == {3}
    return workdir


def folders(workdir):
    """Of the members."""
    return sorted(path for path in workdir.iterdir() if path.is_dir())


def assert_same(one, other):
    """Files of two runs, but for rounding."""
    ours, theirs = (load_file(folder / "injector.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_allclose(value, theirs[key], atol=1e-5, err_msg=f"{one.name}: {key}")
    ours, theirs = result(one), result(other)
    for mode in ours["test"]:
        assert ours["test"][mode] == pytest.approx(theirs["test"][mode], abs=2e-3), mode
        assert ours["test"][mode]["nll"] == pytest.approx(theirs["test"][mode]["nll"], abs=1e-5)
    assert ours["information"] == pytest.approx(theirs["information"], abs=1e-5)
    for kind, gain in ours["draws"].items():
        assert gain == pytest.approx(theirs["draws"][kind], abs=1e-5), kind
    for name, bins in ours["reliability"].items():
        # A confidence at the edge of a bin may fall to either side.
        assert sum(bins["size"]) == sum(theirs["reliability"][name]["size"]) == ours["num_test"]
        assert sum(bins["confidence"]) == pytest.approx(sum(theirs["reliability"][name]["confidence"]), rel=1e-4)
    rounded = ("test", "val", "zero_shot", "information", "draws", "reliability", "intervals", "doubt", "lanes")
    rounded += ("predictions_sha256", "val_zero_shot")
    settled = [{k: v for k, v in x.items() if k not in rounded} for x in (ours, theirs)]
    assert settled[0] == settled[1]


@pytest.mark.long
def test_a_member_is_as_if_it_had_been_alone(together, tmp_path):
    names = {folder.name for folder in folders(together)}
    assert len(names) == 4 and "shots_4-seed_2" in names
    assert json.loads((together / "population.json").read_text())["shots_4-seed_2"] == {"shots": 4, "seed": 2}
    for member in population.members(SETTINGS)[:1]:
        experiment.train_and_evaluate(member.config, tmp_path / member.name)
        assert_same(together / member.name, tmp_path / member.name)
        alone, ours = ((x / member.name / "metrics.jsonl").read_text().splitlines() for x in (tmp_path, together))
        assert [json.loads(line)["step"] for line in ours] == [json.loads(line)["step"] for line in alone]
        assert json.loads(ours[-1])["learning_rate"] == json.loads(alone[-1])["learning_rate"]


@pytest.mark.long
def test_members_differ(together):
    """By their images and their noise."""
    found = [load_file(folder / "injector.safetensors") for folder in folders(together)]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert any(np.abs(value - other[key]).max() > 1e-6 for key, value in one.items())


@pytest.mark.long
def test_one_after_another_where_the_device_is_full(together, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "pini_jax")
    monkeypatch.setattr(memory, "CPU_TOKENS", 0)
    settings = SETTINGS | {"population": {"shots": (4,), "seed": (1, 2)}}
    population.train_population(population.members(settings), tmp_path)
    assert "side by side" not in caplog.text
    assert len(folders(tmp_path)) == 2
    for folder in folders(tmp_path):
        assert_same(folder, together / folder.name)


def contents(folder):
    """Every file that is the same whenever a run is trained."""
    names = ("injector.safetensors", "metrics.jsonl", "config.json", "selection.json")
    return result(folder), {name: (folder / name).read_bytes() for name in names}


@pytest.mark.long
def test_what_was_cut_off_goes_on_where_it_was(together, tmp_path, monkeypatch, caplog):
    """To the bit, though only some are left; what is finished is not repeated."""
    caplog.set_level(logging.INFO, "pini_jax")
    members, saves, save = population.members(SETTINGS), [], Recorder.save

    def kill(recorder, done, state):
        saves.append(done)
        if len(saves) == 5:
            raise KeyboardInterrupt
        return save(recorder, done, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Recorder, "save", kill)
        population.train_population(members, tmp_path)
    assert not list(tmp_path.glob("*/result.json"))
    shutil.copytree(together / "shots_4-seed_1", tmp_path / "shots_4-seed_1", dirs_exist_ok=True)
    population.train_population(members, tmp_path)
    assert "going on from step" in caplog.text
    for member in members:
        assert contents(tmp_path / member.name) == contents(together / member.name)
    caplog.clear()
    monkeypatch.setattr(experiment, "_train_rest", None)
    assert len(population.train_population(members, tmp_path)) == len(members)
    said = "is finished: nothing to do; its data are as they were: training and validation to the byte"
    assert caplog.text.count(said) == len(members)


@pytest.mark.long
def test_a_member_that_diverges_stops_no_other(tmp_path):
    """Its failure is recorded, and its folder takes the corrected command."""
    settings = SETTINGS | {"population": {"optim.lr": (0.002, 1e18, 0.02)}, "shots": 4}
    with pytest.raises(InputError, match=r"diverged.*lower optim.lr \(.*optim.lr_1e\+18\)"):
        population.train_population(population.members(settings), tmp_path)
    finished = sorted(tmp_path.glob("*/result.json"))
    assert [path.parent.name for path in finished] == ["optim.lr_0.002", "optim.lr_0.02"]
    slow, fast = (load_file(path.parent / "injector.safetensors") for path in finished)
    assert any(np.abs(value - fast[key]).max() > 1e-6 for key, value in slow.items())
    failed = tmp_path / "optim.lr_1e+18"
    assert "diverged" in json.loads((failed / "failure.json").read_text())["reason"]
    assert not (failed / "injector.safetensors").exists()
    corrected = population.members(SETTINGS | {"population": None, "shots": 4})[0].config
    experiment.train_and_evaluate(corrected, failed)
    assert (failed / "result.json").exists() and not (failed / "failure.json").exists()


def test_members_that_cannot_share_a_step_are_trained_in_groups():
    folders = {
        member.name: member.config
        for member in population.members(SETTINGS | {"population": {"num_samples": (1, 2), "seed": (1, 2, 3)}})
    }
    groups = [list(group) for group in population.groups(folders)]
    assert groups == [[f"num_samples_{k}-seed_{seed}" for seed in (1, 2, 3)] for k in (1, 2)]


def test_numbers_of_an_optimiser_share_a_step_and_its_words_do_not():
    population_of = {"optim.name": ("sgd", "adam"), "optim.lr": (0.1, 0.2), "optim.epochs": (2, 3)}
    folders = {
        member.name: member.config for member in population.members(SETTINGS | {"population": population_of})
    }
    groups = [list(group) for group in population.groups(folders)]
    assert [len(group) for group in groups] == [4, 4]
    assert all(
        name.startswith(f"optim.name_{word}-")
        for word, group in zip(("sgd", "adam"), groups, strict=True)
        for name in group
    )


# ------------------------------------------------------------------------------------------------ settings


WRONG = {
    "has no key 'sots'.*did you mean 'shots'": {"sots": (1, 2)},
    "'shots' must have values that differ": {"shots": (1, 1)},
    "'seed' must have values": {"seed": ()},
    "'seed' must have values that differ, not 3": {"seed": 3},
    "must be {key: ": (1, 2),
    "shots=0 must be at least 1": {"shots": (1, 0)},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_population(message):
    with pytest.raises(InputError, match=message):
        population.members(SETTINGS | {"population": WRONG[message]})


def test_without_a_population_there_is_one_run():
    (member,) = population.members(config.default())
    assert member.config == config.Config() and member.name == "" and not member.values


def test_values_reach_where_their_keys_lead():
    key = "noise.image_features.reduction"
    members = population.members({"population": {key: (1, 4), "dataset": ("a/b.csv",)}})
    assert [member.config.noise["image_features"]["reduction"] for member in members] == [1, 4]
    assert members[0].name == "noise.image_features.reduction_1-dataset_a_b.csv"
