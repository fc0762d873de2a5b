"""Workers on a real SLURM of four nodes that end at random moments: every run is finished once, with its bits."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import slurm as engine
import small_sweep
import stand_in

from pini_jax.core.store import Folder
from pini_jax.runs import plan, progress, worker

pytestmark = [pytest.mark.long, *engine.needed]
RUNS, MOMENTS, LEASE, NODES = 120, 100, 8.0, "abcd"
# `pini`, which says what process it is.
PINI = """#!/bin/sh
echo $$ > {folder}/worker-$SLURM_ARRAY_TASK_ID
cd {root} && PYTHONPATH=tests exec {python} {program} "$@"
"""
REAL = "-m pini_jax.cli"
# The same, but that steps of its training sleep.
STAND_IN = """-c '
from pini_jax.core import stop
stop.listen()
import functools, stand_in
from pini_jax import cli
from pini_jax.runs import experiment
experiment.train_together = functools.partial(stand_in.train_together, step=0.1)
cli.main()'"""


class Task(NamedTuple):
    """A worker in the queue."""

    job: str
    state: str
    node: str


class Sweep:
    """A sweep in a folder of its own, on which a worker on every node works."""

    def __init__(self, slurm, folder, whole, program):
        self.slurm, self.folder, self.workdir, self.published = slurm, folder, folder / "sweep", {}
        folder.mkdir(mode=0o755)
        self.pini, root = folder / "pini", Path(__file__).parents[2]
        self.pini.write_text(PINI.format(folder=folder, root=root, python=sys.executable, program=program))
        self.pini.chmod(0o755)
        self.plan = whole
        plan.write_plan(whole, Folder(self.workdir))

    def submit(self, tasks):
        """Workers of these numbers, as a user does."""
        own = (f"--array={tasks}", "--cpus-per-task=4")
        self.slurm.submit(self.workdir, self.pini, *own, flags=(f"--lease={LEASE}",))

    def tasks(self):
        """{number: worker} in the queue."""
        lines = self.slurm("squeue", "-h", "-r", "-o", "%K %F_%K %T %N").splitlines()
        return {int(number): Task(*rest, *[""] * (3 - len(rest))) for number, *rest in map(str.split, lines)}

    def process(self, number):
        """The process of a worker, if it lives."""
        try:
            pid = int((self.folder / f"worker-{number}").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if f"--workdir={self.workdir}\0" in command else None

    def is_over(self):
        """Whether all is finished; what is published keeps its place on the disk."""
        for path in self.workdir.glob("*/result.json"):
            assert self.published.setdefault(path.parent.name, path.stat().st_ino) == path.stat().st_ino
        now = progress.read_progress(self.plan, worker.claims_store(self.workdir))
        assert not now.failed
        return now.finished == len(self.plan.runs)

    # ---------------------------------------------------- how a worker ends, unless it has ended a moment ago

    def _send(self, number, which):
        if pid := self.process(number):
            os.kill(pid, which)

    def kill(self, number, task):
        """As for its memory: the task has failed, and the user submits another one."""
        self._send(number, signal.SIGKILL)
        self.slurm.wait(lambda: number not in self.tasks())
        self.submit(number)

    def stop(self, number, task):
        """The worker alone: its script puts it back."""
        self._send(number, signal.SIGTERM)

    def warn(self, number, task):
        """As before the time limit: the shell alone."""
        self.slurm("scancel", "--batch", "--signal=USR1", task.job, check=False)

    def preempt(self, number, task):
        """SIGTERM for all of its processes; SLURM itself puts it back."""
        self.slurm("scontrol", "requeue", task.job, check=False)

    def lose(self, number, task):
        """Its node is gone, and comes back: SLURM itself puts it back."""
        self.slurm("scontrol", "update", f"nodename={task.node}", "state=down", "reason=lost")
        # It may have come back by itself.
        self.slurm("scontrol", "update", f"nodename={task.node}", "state=resume", check=False)


ENDS = (Sweep.kill, Sweep.stop, Sweep.warn, Sweep.preempt, Sweep.lose)


def disturb(sweep, chance, most):
    """Ends workers, at most so often; how often that was when the sweep was over."""
    begun, ended = time.monotonic(), 0
    sweep.submit(f"0-{len(NODES) - 1}")
    sweep.slurm.wait(lambda: list(sweep.workdir.glob(f"{worker.OWN}/claims/*/*.claim")))
    starting = time.monotonic() - begun
    while (tasks := sweep.tasks()) or not sweep.is_over():
        if not tasks:
            sweep.submit(0)  # one that was stopped before it listened is not put back
        time.sleep(chance.uniform(0.0, starting))
        running = [(i, task) for i, task in sweep.tasks().items() if task.state == "RUNNING" and sweep.process(i)]
        if running and ended < most and not sweep.is_over():
            chance.choice(ENDS)(sweep, *chance.choice(running))
            ended += 1
    assert sweep.is_over()
    return ended


@pytest.fixture(scope="module")
def slurm():
    with engine.cluster(*NODES) as slurm:
        yield slurm


def test_every_run_is_finished_once(slurm, tmp_path):
    """Killed, asked to stop, warned, preempted, or on a node that is lost."""
    whole = plan.make_plan({"population": {"seed": tuple(range(RUNS))}}, together=3)
    chance, ended = random.Random(0), 0
    os.chmod(tmp_path, 0o755)
    for number in itertools.count(1):
        sweep = Sweep(slurm, tmp_path / str(number), whole, STAND_IN)
        ended += disturb(sweep, chance, MOMENTS - ended)
        results = [json.loads(path.read_text()) for path in sweep.workdir.glob("*/result.json")]
        assert [result["steps"] for result in results] == [[i**2 for i in range(stand_in.STEPS)]] * RUNS
        assert not list(sweep.workdir.glob(f"{worker.OWN}/attempts/*/*"))
        print(f"{ended} of {MOMENTS} moments in {number} sweeps", flush=True)
        if ended == MOMENTS:
            return


def test_what_was_trained_has_the_bits_of_an_undisturbed_sweep(slurm, tmp_path):
    """By `pini sweep run` in one process."""
    whole = small_sweep.make_plan(tmp_path / "pack.npz", runs=8)
    plan.write_plan(whole, Folder(tmp_path / "alone"))
    subprocess.run([sys.executable, *REAL.split(), "sweep", "run", f"--workdir={tmp_path / 'alone'}"], check=True)
    os.chmod(tmp_path, 0o755)
    sweep = Sweep(slurm, tmp_path / "slurm", whole, REAL)
    ended = disturb(sweep, random.Random(1), 10)
    print(f"{ended} moments", flush=True)
    assert ended and small_sweep.contents(sweep.workdir) == small_sweep.contents(tmp_path / "alone")
