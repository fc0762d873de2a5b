"""A sweep of small runs on a pack of features, trained for real by workers that tests kill, and what it leaves."""

import math
import os

import commands
import numpy as np

from pini_jax.core import runtime, stop
from pini_jax.core.store import open_store
from pini_jax.runs import claims, plan, progress, worker
from pini_jax.runs.worker import Options

CLASSES, WIDTH, IMAGES = 3, 8, 8  # of a class, in training and in the test
FILES = ("metrics.jsonl", "injector.safetensors", "predictions.parquet", "selection.json", "config.json")
# 36 steps, and a checkpoint every fourth.
SETTINGS = {
    "clip": "",
    "method": "task_res",
    "shots": 2,
    "views": 1,
    "num_draws": 2,
    "batch_size": 2,
    "checkpoint_every": 4,
    "log_every": 2,
    "optim": {"epochs": 12},
}


def write_pack(path):
    """Features of noise around a direction for each class."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((CLASSES, WIDTH), np.float32)
    labels = np.repeat(np.arange(CLASSES), IMAGES)
    arrays = {"text": centres, "classnames": np.array([f"c{i}" for i in range(CLASSES)])}
    for split in ("train", "test"):
        noise = chance.standard_normal((len(labels), WIDTH), np.float32)
        arrays |= {f"{split}_x": centres[labels] + noise, f"{split}_y": labels}
    np.savez(path, **arrays)


def make_plan(pack, runs):
    """So many, in units of two."""
    write_pack(pack)
    several = {"dataset": f"features:{pack}", "population": {"seed": tuple(range(runs))}}
    return plan.make_plan(SETTINGS | several, together=2)


def work(workdir, lease, environment=()):
    """A worker, in a process of its own."""
    claims.MOST_LOST = math.inf  # whoever is killed here, no unit is the cause of it
    os.environ.update(environment)
    stop.listen()
    runtime.prepare()
    try:
        worker.work(workdir, Options(lease=lease))
    except stop.Stopped:
        os._exit(stop.STATUS)


def contents(workdir):
    """All of the runs below a folder that is the same whatever happened on the way."""
    runs = sorted(path.parent for path in workdir.glob("*/result.json"))
    return {run.name: (commands.result(run), [(run / name).read_bytes() for name in FILES]) for run in runs}


def is_finished(workdir):
    """Whether all runs are."""
    whole = plan.read_plan(open_store(workdir))
    return progress.read_progress(whole, worker.claims_store(workdir)).finished == len(whole.runs)
