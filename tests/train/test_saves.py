"""Checkpoints beside the steps: in order, all of a step before any of the next, and no error is lost."""

import threading

import pytest

from pini_jax.train.saves import Saves


class Disk:
    """What was written, and when the acts were; a write may have to wait for the test."""

    def __init__(self):
        self.done, self.open = [], threading.Event()

    def write(self, what):
        return lambda: self.done.append(what)

    def late(self, what):
        return lambda: self.open.wait() and self.done.append(what)

    def act(self):
        self.done.append("act")


@pytest.fixture
def disk():
    return Disk()


def fail():
    raise OSError("disk full")


def test_steps_go_on_while_a_write_waits(disk):
    with Saves(disk.act) as saves:
        saves.begin([disk.late("a"), disk.write("b")])
        saves.look()
        assert disk.done == []
        disk.open.set()
        saves.finish()
        assert disk.done == ["a", "b", "act"]
        saves.finish()
        saves.look()
    assert disk.done == ["a", "b", "act"]


def test_a_step_without_any_waits_for_nothing(disk):
    with Saves(disk.act) as saves:
        saves.begin([disk.late("a")])
        saves.begin([])
        assert disk.done == []
        disk.open.set()
    assert disk.done == ["a", "act"]


def test_the_writes_of_the_next_step_come_after_those_of_the_last(disk):
    with Saves(disk.act) as saves:
        saves.begin([disk.write("a")])
        saves.begin([disk.write("b"), disk.write("c")])
    assert disk.done == ["a", "act", "b", "c", "act"]


def test_whoever_looks_acts_once(disk):
    with Saves(disk.act) as saves:
        saves.begin([disk.write("a")])
        while "act" not in disk.done:
            saves.look()
    assert disk.done == ["a", "act"]


@pytest.mark.parametrize("next_call", [Saves.finish, lambda saves: saves.begin([lambda: None])])
def test_an_error_is_raised_by_the_next_call_and_nothing_acts(disk, next_call):
    with pytest.raises(OSError, match="disk full"), Saves(disk.act) as saves:
        saves.begin([fail, disk.write("b")])
        next_call(saves)
    assert disk.done == []


def test_an_error_of_the_last_write_is_raised_at_the_end(disk):
    with pytest.raises(OSError, match="disk full"), Saves(disk.act) as saves:
        saves.begin([fail])


def test_another_error_waits_for_what_was_begun_and_is_itself(disk):
    disk.open.set()
    with pytest.raises(ValueError, match="mine"), Saves(disk.act) as saves:
        saves.begin([disk.late("a"), fail])
        raise ValueError("mine")
    assert disk.done == ["a"]


def test_an_error_of_the_act_is_raised_where_the_steps_are():
    with pytest.raises(OSError, match="disk full"), Saves(fail) as saves:
        saves.begin([lambda: None])
        saves.finish()


def test_several_processes_leave_nothing_to_a_thread(disk, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with Saves(disk.act) as saves:
        saves.begin([disk.write("a")])
        assert disk.done == ["a", "act"]
