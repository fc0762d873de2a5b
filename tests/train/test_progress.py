"""Progress follows what the device has finished."""

import logging

import jax.numpy as jnp
import pytest

from pini_jax.train.progress import EVERY, QUEUED, StepCounter


class Loss:
    """Of a step on a device that is slow."""

    def __init__(self):
        self.ready = False

    def is_ready(self):
        return self.ready

    def block_until_ready(self):
        self.ready = True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lines(monkeypatch):
    """What is logged."""
    found = []
    log = logging.getLogger("pini_jax.train.progress")
    monkeypatch.setattr(log, "info", lambda form, *values: found.append(form % values))
    return found


def test_what_is_queued_is_not_done(lines):
    clock, losses = Clock(), [Loss() for _ in range(4)]
    with StepCounter(100, done=20, is_terminal=False, clock=clock) as progress:
        for loss in losses[:3]:
            progress.queue(loss, 2)
        clock.now = EVERY
        losses[0].ready = losses[1].ready = True
        progress.say(0.5, 0.25)
        progress.queue(losses[3], 2)
        # Four of eighty steps in thirty seconds: 76 are left.
        assert lines == ["step 24 of 100, about 10 min left; loss=0.500, accuracy=25.0%"]
    assert all(loss.ready for loss in losses)


def test_a_line_every_so_often_and_no_more(lines):
    clock = Clock()
    with StepCounter(1000, done=0, is_terminal=False, clock=clock) as progress:
        for second in range(100):
            clock.now = float(second)
            progress.queue(jnp.zeros(1).block_until_ready(), 1)
    assert len(lines) == 3


def test_the_device_is_never_far_behind():
    losses = [Loss() for _ in range(QUEUED + 3)]
    with StepCounter(100, done=0, is_terminal=False, clock=Clock()) as progress:
        for loss in losses:
            progress.queue(loss, 1)
        assert [loss.ready for loss in losses] == [True] * 3 + [False] * QUEUED


def test_nothing_is_waited_for_after_an_error():
    loss = Loss()
    with pytest.raises(ValueError), StepCounter(100, done=0, is_terminal=False, clock=Clock()) as progress:
        progress.queue(loss, 1)
        raise ValueError
    assert not loss.ready


def test_a_bar_on_a_terminal(capsys):
    with StepCounter(10, done=4, is_terminal=True) as progress:
        for _ in range(6):
            progress.queue(jnp.zeros(1), 1)
    assert "10/10" in capsys.readouterr().err
