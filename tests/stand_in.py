"""A worker of a sweep whose training is a stand-in: steps that sleep, and checkpoints."""

import functools
import json
import os
import time

from pini_jax.core import stop
from pini_jax.launch import ray_workers
from pini_jax.runs import experiment, worker
from pini_jax.runs.worker import Options

STEPS = 20


def train_together(folders, watch, step=0.01):
    """Goes on from where each run was; its result tells how many steps it took, and in which attempt it ended."""
    for i, run in enumerate(folders):
        run.mkdir(parents=True, exist_ok=True)
        if (run / "result.json").exists():
            continue
        checkpoint = run / "checkpoint.json"
        steps = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
        while len(steps) < STEPS:
            stop.raise_if_requested()
            time.sleep(step)
            steps.append(len(steps) ** 2)
            (run / "new").write_text(json.dumps(steps))
            os.replace(run / "new", checkpoint)
            if len(steps) % 5 == 0:
                watch.saved()
            watch.stepped(i * STEPS + len(steps), len(folders) * STEPS)
        (run / "result.json").write_text(json.dumps({"steps": steps}))


def work(workdir, lease, environment=(), step=0.01):
    """In a process of its own; a step takes so many seconds."""
    os.environ.update(environment)
    stop.listen()
    experiment.train_together = functools.partial(train_together, step=step)
    try:
        worker.work(workdir, Options(lease=lease))
    except stop.Stopped:
        os._exit(stop.STATUS)


def work_on_ray(workdir, options):
    """As a task of Ray, in whose processes nothing else is replaced."""
    experiment.train_together = functools.partial(train_together, step=0.05)
    return ray_workers.work(workdir, options)
