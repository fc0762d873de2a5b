"""Calls of the compiled steps: the clock decides how many steps each has, and nothing that is written follows."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_clips
from commands import content
from test_packs import arrays
from test_protocols import folder

from pini_jax.core import stop
from pini_jax.runs import population
from pini_jax.train import calls, group

pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """Runs of different length in lanes, by features alone."""
    path = tmp_path_factory.mktemp("data") / "pack.npz"
    np.savez(path, **arrays())
    return {
        "dataset": f"features:{path}",
        "clip": "",
        "views": 1,
        "noise": {"image_features": {"generator": "mlp"}},
        "batch_size": 4,
        "num_draws": 2,
        "log_every": 3,
        "checkpoint_every": 6,
        "optim": {"epochs": 7, "lr": 0.1},
        "population": {"shots": (1, 4, 8), "seed": (1, 2)},
    }


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A run with the text tower in its steps."""
    made = tmp_path_factory.mktemp("clip")
    training = {
        "views": 2,
        "batch_size": 2,
        "log_every": 2,
        "checkpoint_every": 6,
        "optim": {"epochs": 4, "lr": 0.1},
    }
    return tiny_clips.small_run(folder(made / "images"), made / "clip", **training)


@pytest.fixture
def take(monkeypatch):
    """Trains with so many steps in a call at most; how many the longest has had."""

    def take(settings, workdir, length):
        sizes, read = [], calls.read_batches

        def count(of_group, ticks):
            sizes.append(len(ticks))
            return read(of_group, ticks)

        with monkeypatch.context() as patch:
            patch.setattr(calls, "read_batches", count)
            patch.setattr(calls, "most_ticks", lambda of_group, rate: min(length, of_group.most))
            population.train_population(population.members(settings), workdir)
        return max(sizes)

    return take


def contents(settings, workdir):
    return [content(workdir / member.name) for member in population.members(settings)]


@pytest.mark.parametrize("kind", ["pack", pytest.param("towers", marks=pytest.mark.long)])
def test_no_bit_follows_from_how_many_steps_a_call_has(kind, request, take, tmp_path):
    settings = request.getfixturevalue(kind)
    assert take(settings, tmp_path / "1", 1) == 1
    for length, longest in ((4, 4), (99, 6)):  # a checkpoint ends a call
        assert take(settings, tmp_path / str(length), length) == longest
        assert contents(settings, tmp_path / str(length)) == contents(settings, tmp_path / "1")


def test_a_stop_after_any_call_loses_no_step(pack, take, tmp_path, monkeypatch):
    """The calls of each attempt are of another length."""
    take(pack, tmp_path / "whole", 99)
    for length in (3, 2, 4):
        questions = iter([False] * 4)
        with monkeypatch.context() as patch, pytest.raises(stop.Stopped):
            patch.setattr(stop, "_answer", lambda questions=questions: next(questions, True))
            take(pack, tmp_path / "parts", length)
    take(pack, tmp_path / "parts", 99)
    assert contents(pack, tmp_path / "parts") == contents(pack, tmp_path / "whole")


@pytest.mark.long
def test_a_single_step_is_the_same_program_without_a_loop(towers, take, tmp_path, monkeypatch):
    """As steps have it whose images are read for each of them."""
    take(towers, tmp_path / "loop", 1)
    monkeypatch.setattr(group, "MOST_STEPS", 1)
    take(towers, tmp_path / "alone", 99)
    assert contents(towers, tmp_path / "alone") == contents(towers, tmp_path / "loop")


@pytest.mark.parametrize(
    ("most", "rate", "length"),
    [(1, 1e9, 1), (32, 0.0, 1), (32, 4.0, 1), (32, 160.0, 10), (32, 1e9, 32)],
)
def test_a_call_has_as_many_steps_as_take_a_quarter_of_a_second(most, rate, length):
    """Of four lanes, whose steps are counted one by one."""
    assert calls.most_ticks(SimpleNamespace(most=most, width=4), rate) == length


def run_of(reads="features", views=1, width=512, batch=32):
    shared = SimpleNamespace(
        method=SimpleNamespace(traits=SimpleNamespace(reads=reads)),
        task=SimpleNamespace(text=SimpleNamespace(features=np.zeros((1, 3, width)))),
    )
    batches = SimpleNamespace(batch_size=batch)
    return SimpleNamespace(shared=shared, batches=batches, config=SimpleNamespace(views=views))


def test_images_that_are_read_for_a_step_are_not_waited_for():
    """And batches of many steps and lanes are not many megabytes."""
    assert group.most_steps([run_of()], 1) == group.MOST_STEPS
    assert group.most_steps([run_of(reads="pixels")], 1) == group.most_steps([run_of(views=0)], 1) == 1
    steps = group.most_steps([run_of(width=1024)], 45)
    assert 1 < steps < group.MOST_STEPS and steps * 45 * 32 * 1024 * 4 <= group.MOST_BYTES
    assert group.most_steps([run_of(width=1024, batch=10**6)], 45) == 1
