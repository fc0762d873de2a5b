"""A stop wherever it is asked for: in encoding, in training with lanes, in evaluation, in a comparison."""

import itertools

import numpy as np
import pytest
import tiny_clips
from commands import content, steps_saved
from test_packs import arrays
from test_protocols import folder

from configs import features
from launch import compare
from pini_jax import config as configs
from pini_jax.core import stop
from pini_jax.runs import population


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = tmp_path_factory.mktemp("data")
    training = {"batch_size": 2, "log_every": 2, "checkpoint_every": 2, "optim": {"epochs": 3}}
    return tiny_clips.small_run(folder(made / "images"), made / "clip", **training)


@pytest.fixture
def stop_at(monkeypatch):
    """Says yes to the question of this number, from now on."""

    def stop_at(number):
        questions = itertools.count(1)
        monkeypatch.setattr(stop, "_answer", lambda: next(questions) >= number)

    return stop_at


def train(settings, workdir):
    return population.train_population(population.members(settings), workdir)


def restarts(train, stop_at):
    """How often a command must be started, if its n-th start is stopped at the n-th question."""
    for number in itertools.count(1):
        stop_at(number)
        try:
            train()
        except stop.Stopped:
            continue
        return number


@pytest.mark.long
def test_no_question_of_a_run_loses_a_step(settings, tmp_path, stop_at):
    """To the bit, with the files of a run that nobody stopped."""
    train(settings, tmp_path / "whole")
    done = []

    def go_on():
        try:
            train(settings, tmp_path / "run")
        finally:
            done.append(max(steps_saved(tmp_path / "run"), default=0))

    assert restarts(go_on, stop_at) > 4
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    assert done == sorted(done) and done[-1] == 9
    assert any(step % 2 for step in done[:-1]), "a checkpoint that was not due"


def test_a_checkpoint_of_a_stop_takes_no_other_one_s_place(settings, tmp_path, monkeypatch):
    """It is kept beside those that were due, until the next that is due."""
    workdir = tmp_path / "run"
    lines = workdir / "metrics.jsonl"  # on the disk up to the last step that was due, before its checkpoint is
    with monkeypatch.context() as patch, pytest.raises(stop.Stopped):
        patch.setattr(stop, "_answer", lambda: lines.exists() and '"step": 4' in lines.read_text())
        train(settings, workdir)
    assert steps_saved(workdir) == [2, 4, 5]
    train(settings, workdir)
    assert steps_saved(workdir) == [8, 9]


@pytest.mark.parametrize(("number", "place"), [(2, "text_features"), (3, "features")])
def test_nothing_is_begun_before_all_has_been_tried(settings, tmp_path, stop_at, number, place):
    """A stop while texts or images are encoded leaves a folder that is free."""
    stop_at(number)
    with pytest.raises(stop.Stopped) as stopped:
        train(settings | {"augment": {"scale": (0.5, 1.0)}}, tmp_path / "run")
    assert place in [entry.name for entry in stopped.traceback]
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.long
def test_lanes_stop_together(settings, tmp_path, stop_at):
    """Runs that take steps side by side are all saved."""
    several = settings | {"population": {"seed": (1, 2), "shots": (1, 2)}}
    train(several, tmp_path / "whole")
    assert restarts(lambda: train(several, tmp_path / "runs"), stop_at) > 4
    for member in population.members(several):
        assert content(tmp_path / "runs" / member.name) == content(tmp_path / "whole" / member.name)


def test_a_solution_can_be_stopped(tmp_path, stop_at):
    """Of a method that sets itself, before anything is written."""
    np.savez(tmp_path / "pack.npz", **arrays())
    pack = features.get_config(f"path={tmp_path / 'pack.npz'}")
    settings = configs.with_method(pack, "empirical_bayes").to_dict() | {"shots": 2}
    stop_at(50)
    with pytest.raises(stop.Stopped) as stopped:
        train(settings, tmp_path / "run")
    assert any(entry.name == "fit" for entry in stopped.traceback)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.long
def test_a_comparison_swallows_no_stop(tmp_path, stop_at):
    np.savez(tmp_path / "pack.npz", **arrays())
    pack = features.get_config(f"path={tmp_path / 'pack.npz'},num_draws=2")
    pack.optim.epochs = 1
    contender = compare.contenders(pack)["text_features: table"]
    whole = compare.train(contender, 2, (1,), tmp_path / "whole")
    found = []
    count = restarts(lambda: found.extend(compare.train(contender, 2, (1,), tmp_path / "runs")), stop_at)
    assert count > 4 and [run.name for run in found] == [run.name for run in whole]
    for run in found:
        assert content(run) == content(tmp_path / "whole" / run.name)
