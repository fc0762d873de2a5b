"""Runs and sweeps in a bucket that are killed, and go on elsewhere: the bits of undisturbed ones on a disk."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import commands
import emulators
import pytest
import small_sweep
from safetensors.numpy import load_file

from pini_jax.core.bucket import open_bucket
from pini_jax.core.store import Folder
from pini_jax.report.__main__ import readable
from pini_jax.runs import plan, staged

pytestmark = pytest.mark.long
CONFIG = "--config=digits:method=task_res,shots=1,views=1,optim.epochs=60,checkpoint_every=20,num_draws=2"
MOMENTS, LEASE = 50, 10.0


def train(workdir):
    """In a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "pini_jax.main", CONFIG, f"--workdir={workdir}"])


def test_killed_and_started_again(tmp_path):
    assert train(tmp_path / "disk").wait() == 0
    with emulators.bucket("s3") as bucket:
        url, place = f"{bucket}/run", open_bucket(f"{bucket}/run")
        first = train(url)
        while first.poll() is None and not [key for key in place.below(staged.OWN).objects() if "manifest" in key]:
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL and place.read("result.json") is None
        assert train(url).wait() == 0
        for name in ("metrics.jsonl", "config.json", "selection.json", "predictions.parquet"):
            assert place.read(name) == (tmp_path / "disk" / name).read_bytes()
        place.get("injector.safetensors", tmp_path / "injector.safetensors")
    ours, theirs = (load_file(x / "injector.safetensors") for x in (tmp_path, tmp_path / "disk"))
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in theirs)


def start(workdir):
    """A worker, forked from a process that has imported everything, and started nothing."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["small_sweep", "scipy.optimize", "s3fs", "gcsfs"])
    asked = (str(workdir), LEASE, dict(os.environ))
    process = processes.Process(target=small_sweep.work, args=asked, daemon=True)  # ends with the tests
    process.start()
    return process


class Undisturbed(NamedTuple):
    """A sweep by one worker in a folder: its plan, what it leaves, and how long it computes a unit."""

    plan: plan.Plan
    contents: dict
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    whole, used = small_sweep.make_plan(folder / "pack.npz", runs=24), 0.0
    plan.write_plan(whole, Folder(folder / "sweep"))
    process = start(folder / "sweep")
    while (now := commands.computed(process.pid)) < float("inf"):
        used = now
        time.sleep(0.05)
    process.join()
    assert process.exitcode == 0 and small_sweep.is_finished(folder / "sweep")
    return Undisturbed(whole, small_sweep.contents(folder / "sweep"), used / len(whole.units))


def disturb(url, chance, seconds, most):
    """Two workers, of which one is ended at a random moment of its computing and replaced; how often that was."""
    workers, published, ended = [start(url), start(url)], {}, 0
    while ended < most:
        i = chance.randrange(2)
        moment = commands.computed(workers[i].pid) + chance.uniform(0.0, seconds)
        while commands.computed(workers[i].pid) < moment:
            time.sleep(0.01)
        if not workers[i].is_alive():  # all is over
            break
        chance.choice((workers[i].kill, workers[i].terminate))()
        workers[i].join()
        assert workers[i].exitcode in (0, 42, -signal.SIGKILL, -signal.SIGTERM)
        ended += 1
        stays(open_bucket(url), published)
        workers[i] = start(url)
    for process in workers:
        process.join()
        assert process.exitcode == 0
    stays(open_bucket(url), published)
    return ended


def stays(place, published):
    """What is published is not written again."""
    for key in (key for key in place.objects() if key.count("/") == 1 and key.endswith("/result.json")):
        result = place.read(key)
        assert published.setdefault(key, result) == result


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_sweeps_whose_workers_are_killed(undisturbed, kind):
    """Fifty times on each server, SIGKILL or SIGTERM: the bits of a sweep on a disk that nobody has disturbed."""
    chance, ended = random.Random(kind), 0
    with emulators.bucket(kind) as bucket:
        for number in itertools.count(1):
            url = f"{bucket}/{number}"
            plan.write_plan(undisturbed.plan, open_bucket(url))
            ended += disturb(url, chance, 1.5 * undisturbed.seconds, MOMENTS - ended)
            assert small_sweep.is_finished(url)
            assert small_sweep.contents(readable(url)) == undisturbed.contents
            assert not [key for key in open_bucket(url).objects() if "attempts" in key and "manifest" in key]
            print(f"{ended} of {MOMENTS} moments in {number} sweeps", flush=True)
            if ended == MOMENTS:
                return
