"""The training of one run, or of several over one frozen half: batch, step, record.

    python -m pini_jax.main --config=configs/digits.py --workdir=runs/digits

comes here by `runs.experiment`, which loads what runs share and evaluates what they have learned.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import NamedTuple

import jax

from pini_jax.core import mesh as meshes
from pini_jax.core import stop
from pini_jax.methods.method import Batch
from pini_jax.methods.objective import Parts
from pini_jax.task.run import Reader, Run
from pini_jax.train import lanes as lanes_of_runs
from pini_jax.train import memory
from pini_jax.train.lanes import Fixed, Lanes, Step
from pini_jax.train.progress import StepCounter
from pini_jax.train.recorder import Recorder
from pini_jax.train.saves import Saves, Write
from pini_jax.train.schedule import Turn, num_busy_lanes, timetable
from pini_jax.train.step import Constants, TrainState, constants_of

PREFETCH = 4
Turns = Sequence[Turn | None]  # of every lane
Watch = Callable[
    [int, int], None
]  # is told the steps that runs have taken, and all they take; may raise to end it
LOG = logging.getLogger(__name__)
_after_saving: ContextVar[Callable[[], object]] = ContextVar("after_saving", default=lambda: None)


def unwatched(done: int, total: int) -> None:
    """A `Watch` that does nothing."""


@contextlib.contextmanager
def after_saving(act: Callable[[], object]) -> Iterator[None]:
    """Runs that are trained within the block act so after the checkpoints of a step are whole."""
    token = _after_saving.set(act)
    try:
        yield
    finally:
        _after_saving.reset(token)


class Trainee(NamedTuple):
    """A run that trains: what it reads at a step, and where it writes."""

    run: Run
    read: Reader
    recorder: Recorder

    @property
    def lane(self) -> tuple[TrainState, Constants]:
        """What the compiled step starts with."""
        return self.recorder.state, constants_of(self.run)


class Group(NamedTuple):
    """Runs that share a compiled step.

    Attributes:
        runs: all of them, those that are finished too: lanes follow from all.
        trainees: those that are not, by their number in `runs`.
        width: how many take a step side by side.
    """

    runs: Sequence[Run]
    trainees: Mapping[int, Trainee]
    width: int

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

    @property
    def table(self) -> Iterator[Turns]:
        """Who takes which step at every tick."""
        return timetable(self.lengths, self.starts, self.width)


class Tick(NamedTuple):
    """One call of the compiled step: which run takes which step in each lane, and what they read."""

    turns: Turns
    batch: Batch


def train(group: Group, step: Step, lanes: Lanes, watch: Watch = unwatched) -> None:
    """Takes all steps of all runs, with lines of metrics.jsonl and checkpoints on the way.

    Args:
        step, lanes: as `compile_group` has made them.
        watch: is called after every step.

    Raises:
        Stopped: somebody asked for it; everything is saved.
    """
    counter = StepCounter(sum(group.lengths), done=sum(group.starts))
    with counter as progress, Saves(_after_saving.get()) as saves:
        for turns, batch in ticks(group):
            saves.look()
            lanes = enter(group, lanes, turns)
            lanes, parts = step(lanes, batch)
            progress.queue(parts.loss, sum(turn is not None for turn in turns))
            watch(progress.done, progress.total)
            stopping = stop.requested()
            saves.begin(record(group, lanes, turns, parts, progress, save_all=stopping))
            if stopping:
                saves.finish()
                raise stop.Stopped


def enter(group: Group, lanes: Lanes, turns: Turns) -> Lanes:
    """The lanes, with the runs in them that take their first step now."""
    for lane, turn in enumerate(turns):
        if turn and turn.opens:
            trainee = group.trainees[turn.run]
            trainee.recorder.open()
            entering = lanes_of_runs.stack(trainee.run.shared.mesh, [trainee.lane])
            lanes = lanes_of_runs.replace(lanes, lane, entering)
    return lanes


def record(
    group: Group, lanes: Lanes, turns: Turns, parts: Parts, progress: StepCounter, save_all: bool
) -> list[Write]:
    """Writes the lines of metrics.jsonl that are due after a step, and returns what writes the checkpoints.

    Args:
        save_all: whether a checkpoint of every run is due, since there will be no other step.
    """
    # What is written of several lanes comes from the device at once.
    fetched = functools.cache(lambda: (meshes.fetch(parts.loss), meshes.fetch(parts.accuracy)))
    states = functools.cache(lambda: lanes_of_runs.fetch_state(lanes))
    writes: list[Write] = []
    for lane, turn in enumerate(turns):
        if turn is None or (recorder := group.trainees[turn.run].recorder).problem:
            continue
        done = turn.step + 1
        if turn.opens:
            recorder.first_loss = parts.loss[lane]
        if recorder.logs(done):
            loss, accuracy = (float(x[lane]) for x in fetched())
            progress.say(loss, accuracy)
            recorder.write(done, loss, accuracy)
        if recorder.problem is None and (recorder.saves(done) or save_all):
            recorder.save(done, states()[lane])
            writes += recorder.due
    return writes


# ----------------------------------------------------------------------------------------------- runs side by side


def num_lanes(runs: Sequence[Run]) -> int:
    """How many of some runs take a step together: as many as keep each other busy and the device has room for.

    It follows from configs and the kind of device alone, so that a sweep that is repeated gives the same bits.
    """
    shared = runs[0].shared
    images = max(run.config.num_samples * run.batches.batch_size for run in runs)
    most = memory.most_lanes(shared.method, shared.task.text, images)
    return max(1, min(num_busy_lanes([run.num_steps for run in runs]), most))


def compile_group(group: Group) -> tuple[Step, Lanes]:
    """The compiled step, and the lanes that it starts with."""
    LOG.info("compiling")
    if group.width > 1:
        LOG.info("%d runs in %d lanes side by side", len(group.runs), group.width)
    turns = next(group.table)
    another = next(turn for turn in turns if turn)
    run = group.trainees[another.run].run
    shared, config = run.shared, run.config
    occupied = [group.trainees[(turn or another).run].lane for turn in turns]
    lanes = lanes_of_runs.stack(shared.mesh, occupied)
    fixed = Fixed(
        *(shared.mesh, shared.method, config.num_samples, config.remat, shared.frozen.theta, shared.task.text)
    )
    return lanes_of_runs.compile_step(fixed, lanes, read_batches(group, turns)), lanes


def ticks(group: Group) -> Iterator[Tick]:
    """Every call of the step that is of use to a run, with its batches."""
    for tick in prefetch(lambda turns: Tick(turns, read_batches(group, turns)), group.table):
        if not all(turn is None or group.trainees[turn.run].recorder.problem for turn in tick.turns):
            yield tick


def read_batches(group: Group, turns: Turns) -> Batch:
    """The batches of a tick, lane by lane; a lane without a run gets another one's."""
    batches = [turn and group.trainees[turn.run].read(turn.step) for turn in turns]
    another = next(batch for batch in batches if batch)
    size = max(run.batches.batch_size for run in group.runs)
    mesh = group.runs[0].shared.mesh
    return lanes_of_runs.stack_batches(mesh, [batch or another for batch in batches], size)


def prefetch(read: Callable[[Turns], Tick], table: Iterator[Turns]) -> Iterator[Tick]:
    """read(turns) of every row of a timetable, made ahead in a thread while the device works."""
    if jax.process_count() > 1:
        # Processes must start what they compute together in one order.
        yield from map(read, table)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[Tick]] = deque()
        for turns in table:
            waiting.append(pool.submit(read, turns))
            if len(waiting) > PREFETCH:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
