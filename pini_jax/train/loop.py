"""The training of one run, or of several over one frozen half: batches, a call of steps, record.

    python -m pini_jax.main --config=configs/digits.py --workdir=runs/digits

comes here by `runs.experiment`, which loads what runs share and evaluates what they have learned.

| file                  | what of the training                                                   |
|-----------------------|------------------------------------------------------------------------|
| `step`                | one step: a pure function of state, batch and the constants of a run   |
| `lanes`               | the compiled program: some such steps, of several runs side by side    |
| `group`, `schedule`   | which runs, in how many lanes, and whose turn it is in each            |
| `calls`               | which steps are one call of the program, and their batches, read ahead |
| `recorder`            | a run's lines of metrics.jsonl, and when a checkpoint is due           |
| `checkpoint`, `saves` | its content; the thread that writes it                                 |
| `watch`               | who hears of it: what pushes to a bucket, renews a claim, or traces    |
"""

from __future__ import annotations

import functools
import logging

from pini_jax.core import mesh as meshes
from pini_jax.core import stop
from pini_jax.methods.objective import Parts
from pini_jax.train import lanes as lanes_of_runs
from pini_jax.train.calls import Call, calls, read_batches
from pini_jax.train.group import Group
from pini_jax.train.lanes import Fixed, Lanes, Step
from pini_jax.train.progress import StepCounter
from pini_jax.train.saves import Saves, Write
from pini_jax.train.watch import UNWATCHED, Watch

LOG = logging.getLogger(__name__)


def train(group: Group, step: Step, lanes: Lanes, watch: Watch = UNWATCHED) -> None:
    """Takes all steps of all runs, with lines of metrics.jsonl and checkpoints on the way.

    Args:
        step, lanes: as `compile_group` has made them.
        watch: is told of every call and of every checkpoint.

    Raises:
        Stopped: somebody asked for it; everything is saved.
    """
    with StepCounter(sum(group.lengths), sum(group.starts)) as progress, Saves(watch.saved) as saves:
        for call in calls(group, progress):
            saves.look()
            lanes = enter(group, lanes, call)
            lanes, parts = step(lanes, call.table)
            progress.queue(parts.loss, len(call.turns))
            watch.stepped(progress.done, progress.total)
            stopping = stop.requested()
            saves.begin(record(group, lanes, call, parts, progress, save_all=stopping))
            if stopping:
                saves.finish()
                raise stop.Stopped


def enter(group: Group, lanes: Lanes, call: Call) -> Lanes:
    """The lanes, with the runs in them that take their first step now."""
    for _, lane, turn in call.turns:
        if turn.opens:
            trainee = group.trainees[turn.run]
            trainee.recorder.begin()
            entering = lanes_of_runs.stack(trainee.run.shared.mesh, [trainee.lane])
            lanes = lanes_of_runs.replace(lanes, lane, entering)
    return lanes


def record(
    group: Group, lanes: Lanes, call: Call, parts: Parts, progress: StepCounter, save_all: bool
) -> list[Write]:
    """Writes the lines of metrics.jsonl that are due after a call, and returns what writes the checkpoints.

    Args:
        save_all: whether a checkpoint of every run is due, since there will be no other step.
    """
    # What is written of several steps and lanes comes from the device at once.
    fetched = functools.cache(lambda: (meshes.fetch(parts.loss), meshes.fetch(parts.accuracy)))
    states = functools.cache(lambda: lanes_of_runs.fetch_state(lanes))
    writes, last = list[Write](), len(call.ticks) - 1
    for i, lane, turn in call.turns:
        if (recorder := group.trainees[turn.run].recorder).problem:
            continue
        done = turn.step + 1
        if turn.opens:
            recorder.first_loss = parts.loss[i, lane]
        if recorder.logs(done):
            loss, accuracy = (float(x[i, lane]) for x in fetched())
            progress.say(loss, accuracy)
            recorder.write(done, loss, accuracy)
        # A checkpoint is due after the last tick of a call alone, and the states are those after it.
        if i == last and recorder.problem is None and (recorder.saves(done) or save_all):
            writes += recorder.save(done, states()[lane])
    return writes


def compile_group(group: Group) -> tuple[Step, Lanes]:
    """The compiled steps, and the lanes that they start with."""
    LOG.info("compiling")
    if group.width > 1:
        LOG.info("%d runs in %d lanes side by side", len(group.runs), group.width)
    turns = next(group.timetable())
    another = next(turn for turn in turns if turn)
    run = group.trainees[another.run].run
    shared, config = run.shared, run.config
    occupied = [group.trainees[(turn or another).run].lane for turn in turns]
    lanes = lanes_of_runs.stack(shared.mesh, occupied)
    theta, text = shared.frozen.theta, shared.task.text
    fixed = Fixed(shared.mesh, shared.method, config.num_samples, config.remat, theta, text)
    return lanes_of_runs.compile_step(fixed, lanes, read_batches(group, [turns])), lanes
