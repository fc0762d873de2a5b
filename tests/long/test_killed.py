"""Workers that are killed, stopped and put to sleep at a hundred random moments: nothing is lost or done twice."""

import json
import multiprocessing
import os
import random
import signal
import time

import emulators
import pytest
import stand_in

from pini_jax.core.bucket import open_bucket
from pini_jax.core.store import Folder
from pini_jax.runs import plan, progress, worker

pytestmark = pytest.mark.long
RUNS, WORKERS, MOMENTS, LEASE = 120, 3, 100, 2.0


@pytest.fixture(scope="module")
def processes():
    """Forked from a process that has imported everything, and started nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stand_in"])
    return context


def test_every_run_is_finished_once(tmp_path, processes):
    chance, published, asleep = random.Random(0), {}, []
    settings = {"population": {"seed": tuple(range(RUNS))}}
    plan.write_plan(plan.make_plan(settings, together=3), Folder(tmp_path))

    def look():
        """What is published keeps its place on the disk."""
        for path in tmp_path.glob("*/result.json"):
            assert published.setdefault(path.parent.name, path.stat().st_ino) == path.stat().st_ino

    def start():
        process = processes.Process(target=stand_in.work, args=(str(tmp_path), LEASE))
        process.start()
        return process

    workers = [start() for _ in range(WORKERS)]
    for _ in range(MOMENTS):
        time.sleep(chance.uniform(0.05, 0.6))
        look()
        i = chance.randrange(WORKERS)
        what = chance.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP))
        if workers[i].is_alive():
            os.kill(workers[i].pid, what)
        if what == signal.SIGSTOP:
            asleep.append(workers[i])
        workers[i] = start()
        if len(asleep) > 2:  # it wakes up long after its lease
            os.kill(asleep.pop(0).pid, signal.SIGCONT)
    for process in asleep:
        os.kill(process.pid, signal.SIGCONT)
    last = start()
    last.join(300)
    look()
    for process in (*workers, *asleep):
        process.kill()
        process.join()
    now = progress.read_progress(plan.read_plan(Folder(tmp_path)), worker.claims_store(tmp_path))
    assert last.exitcode == 0 and (now.finished, now.failed, len(published)) == (RUNS, {}, RUNS)
    for path in tmp_path.glob("*/result.json"):
        assert json.loads(path.read_text())["steps"] == [i**2 for i in range(stand_in.STEPS)]


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_every_run_is_finished_once_in_a_bucket(processes, kind):
    """The same on servers that stand in for S3, whose clock has whole seconds, and for GCS."""
    chance, published = random.Random(1), {}
    with emulators.bucket(kind) as bucket:
        url, place = f"{bucket}/sweep", open_bucket(f"{bucket}/sweep")
        settings = {"population": {"seed": tuple(range(RUNS))}}
        plan.write_plan(plan.make_plan(settings, together=3), place)

        def look():
            """What is published stays as it is."""
            for name in place.names() - {"plan.jsonl", "population.json", worker.OWN}:
                if (result := place.read(f"{name}/result.json")) is not None:
                    assert published.setdefault(name, result) == result

        def start():
            process = processes.Process(target=stand_in.work, args=(url, 2 * LEASE, dict(os.environ)))
            process.start()
            return process

        workers = [start(), start()]
        for _ in range(MOMENTS):
            time.sleep(chance.uniform(0.2, 2.0))
            look()
            i = chance.randrange(2)
            if workers[i].is_alive():
                os.kill(workers[i].pid, chance.choice((signal.SIGKILL, signal.SIGTERM)))
                workers[i].join(60)
            workers[i] = start()
        for process in workers:
            process.join(300)
        look()
        now = progress.read_progress(plan.read_plan(place), worker.claims_store(url))
        assert (now.finished, now.failed, len(published)) == (RUNS, {}, RUNS)
        assert all(json.loads(x)["steps"] == [i**2 for i in range(stand_in.STEPS)] for x in published.values())
        assert not [key for key in place.objects() if "attempts" in key and key.endswith("manifest.json")]


def seconds(processes, workdir, workers):
    """How long so many workers take for 165 runs of a bit less than half a second, as the real ones take."""
    settings = {"population": {"seed": tuple(range(165))}}
    plan.write_plan(plan.make_plan(settings, together=1), Folder(workdir))
    asked = (str(workdir), LEASE, {}, 0.45 / stand_in.STEPS)
    begun = [processes.Process(target=stand_in.work, args=asked) for _ in range(workers)]
    start = time.monotonic()
    for process in begun:
        process.start()
    for process in begun:
        process.join()
    assert all(process.exitcode == 0 for process in begun)
    return time.monotonic() - start


def test_two_workers_are_nearly_twice_as_fast_as_one(tmp_path, processes, capsys):
    """On runs that sleep, without imports; printed, since a busy machine may be slower."""
    first = processes.Process(target=time.sleep, args=(0,))  # starts the server that all others are forked from
    first.start()
    first.join()
    one, two = (seconds(processes, tmp_path / str(n), n) for n in (1, 2))
    with capsys.disabled():
        print(f"\none worker {one:.1f} s, two {two:.1f} s: {one / two:.2f} times as fast")
    assert two < one
