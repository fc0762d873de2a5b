"""Runs that share compiled steps: how many take one side by side, and how many steps they may take in a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pini_jax.task.run import Reader, Run
from pini_jax.train import memory
from pini_jax.train.recorder import Recorder
from pini_jax.train.schedule import Turns, num_busy_lanes, timetable
from pini_jax.train.step import Constants, TrainState, constants_of

# Beyond so many steps in a call the host's work between calls is next to nothing.
MOST_STEPS = 32
# What the batches of a call may take, twice on the host and once on every device.
MOST_BYTES = 2**24


class Trainee(NamedTuple):
    """A run in training: what it reads at a step, and where it writes."""

    run: Run
    read: Reader
    recorder: Recorder

    @property
    def lane(self) -> tuple[TrainState, Constants]:
        """What the compiled steps start from."""
        return self.recorder.state, constants_of(self.run)


class Group(NamedTuple):
    """Runs that share compiled steps.

    Attributes:
        runs: all of them, those that are finished too: lanes follow from all.
        trainees: those that are not, by their number in `runs`.
        width: how many take a step side by side.
        most: how many steps they may take in a call, one after another.
    """

    runs: Sequence[Run]
    trainees: Mapping[int, Trainee]
    width: int
    most: int

    @property
    def lengths(self) -> list[int]:
        """The steps of each run."""
        return [run.num_steps for run in self.runs]

    @property
    def starts(self) -> list[int]:
        """The steps that each run has taken before."""
        return [
            self.trainees[i].recorder.start if i in self.trainees else length
            for i, length in enumerate(self.lengths)
        ]

    def timetable(self) -> Iterator[Turns]:
        """Who takes which step at every tick, from the first on."""
        return timetable(self.lengths, self.starts, self.width)


def make_group(runs: Sequence[Run], trainees: Mapping[int, Trainee]) -> Group:
    """Puts the runs into as many lanes, with as many steps per call, as suit them."""
    width = num_lanes(runs)
    return Group(runs, trainees, width, most_steps(runs, width))


def num_lanes(runs: Sequence[Run]) -> int:
    """How many runs take a step together: as many as keep each other busy and fit the device.

    It follows from configs and the kind of device alone, so that a sweep that is repeated gives the same bits.
    """
    shared = runs[0].shared
    images = max(run.config.num_samples * run.batches.batch_size for run in runs)
    most = memory.most_lanes(shared.method, shared.task.text, images)
    return max(1, min(num_busy_lanes([run.num_steps for run in runs]), most))


def most_steps(runs: Sequence[Run], width: int) -> int:
    """The maximal number of steps per call: one if images are read for it, else as many as fit."""
    shared = runs[0].shared
    if shared.method.traits.reads == "pixels" or not runs[0].config.views:
        return 1
    numbers = width * batch_size(runs) * shared.task.text.features.shape[-1]
    return max(1, min(MOST_STEPS, MOST_BYTES // (numbers * np.dtype(np.float32).itemsize)))


def batch_size(runs: Sequence[Run]) -> int:
    """The batch size of every lane: the largest of the runs'."""
    return max(run.batches.batch_size for run in runs)
