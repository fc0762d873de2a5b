"""Ray on this machine alone, in a network and processes of its own: workers of a sweep, and batches of Parquet."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import emulators
import numpy as np
import pytest
import small_sweep
import stand_in

from pini_jax.core.store import Folder
from pini_jax.data.datasets import digits
from pini_jax.runs import plan, progress, worker

LIMIT = 900  # seconds: where cores are busy Ray takes minutes to start, and a worker that is replaced another one
# Only loopback, so that Ray looks for no other address; and nothing that it starts outlives the test.
ALONE = ("unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
LOOPBACK = ("sh", "-c", 'ip link set lo up && exec "$0" "$@"')
EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_predict.py"


def is_possible():
    tools = all(map(shutil.which, ("unshare", "ip")))
    return tools and subprocess.run([*ALONE, *LOOPBACK, "true"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not is_possible(), reason="no network of its own can be made here (unshare, ip)"),
]


def alone(*words, limit=LIMIT):
    """Runs a Python program so; Ray and what it starts find what this process has."""
    emulators.needed("ray")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_worker_niceness": "0",  # or else everything else that a busy machine does comes first
    }
    program = [*ALONE, *LOOPBACK, sys.executable, *map(str, words)]
    subprocess.run(program, env=environment, check=True, timeout=limit)


KILLING = """
import json, os, signal, sys, threading, time
from pathlib import Path
from pini_jax.core import command
from pini_jax.launch import ray_workers

def kill_one(claims):
    "The first worker that has claimed something; its name tells its number."
    while not (found := list(claims.glob("*/*.claim"))):
        time.sleep(0.05)
    worker = json.loads(found[0].read_text())["worker"]
    os.kill(int(worker.split("-")[-2]), signal.SIGKILL)

workdir = Path(sys.argv[-1].partition("=")[2])
threading.Thread(target=kill_one, args=(workdir / ".sweep" / "claims",), daemon=True).start()
command.run(ray_workers.COMMAND)
"""


def test_a_sweep_goes_on_though_a_worker_is_killed(tmp_path):
    """With the bits of one that was not disturbed."""
    (tmp_path / "killing.py").write_text(KILLING)
    whole = small_sweep.make_plan(tmp_path / "pack.npz", runs=6)
    for name in ("sweep", "alone"):
        plan.write_plan(whole, Folder(tmp_path / name))
    own = [sys.executable, "-m", "pini_jax.cli", "sweep", "run", f"--workdir={tmp_path / 'alone'}"]
    subprocess.run(own, check=True)
    words = ["--address=local", "--workers=2", "--lease=10", f"--workdir={tmp_path / 'sweep'}"]
    alone(tmp_path / "killing.py", *words)
    assert small_sweep.is_finished(tmp_path / "sweep")
    assert small_sweep.contents(tmp_path / "sweep") == small_sweep.contents(tmp_path / "alone")
    assert any(
        name.endswith(".002.claim") for name in worker.claims_store(tmp_path / "sweep").times("claims/0000")
    )


RUNS, MOMENTS = 720, 100  # six workers end at most six runs a second; a moment takes one second, on average
KILLING_OFTEN = """
import contextlib, os, random, signal, sys, threading, time
from pathlib import Path
import stand_in
from pini_jax.core import command
from pini_jax.core.store import Folder
from pini_jax.launch import ray_workers
from pini_jax.runs import plan, progress, worker

def at_work(whole, store):
    "Processes that hold a claim; the names of workers tell them."
    running = progress.read_progress(whole, store).running
    return [pid for pid in (int(own.worker.split("-")[-2]) for own in running) if lives(pid)]

def lives(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    return False

def kill_often(workdir, moments):
    whole, store, chance = plan.read_plan(Folder(workdir)), worker.claims_store(workdir), random.Random(0)
    while moments:
        while not (found := at_work(whole, store)):
            time.sleep(0.1)
        victim = chance.choice(found)
        time.sleep(chance.uniform(0, 2))
        if lives(victim):
            os.kill(victim, chance.choice((signal.SIGKILL, signal.SIGTERM)))
            moments -= 1
            (workdir / "moments").write_text(f"{moments} are left")

workdir = Path(sys.argv[-1].partition("=")[2])
threading.Thread(target=kill_often, args=(workdir, int(sys.argv.pop(1))), daemon=True).start()
ray_workers.work = stand_in.work_on_ray
command.run(ray_workers.COMMAND)
"""


def test_every_run_is_finished_once_though_workers_are_killed_at_a_hundred_moments(tmp_path):
    """Runs are stand-ins; Ray itself starts the workers again."""
    (tmp_path / "killing.py").write_text(KILLING_OFTEN)
    store = Folder(tmp_path / "sweep")
    plan.write_plan(plan.make_plan({"population": {"seed": tuple(range(RUNS))}}, together=2), store)
    words = ["--address=local", "--workers=6", "--cpus=0.25", "--lease=10", f"--workdir={tmp_path / 'sweep'}"]
    alone(tmp_path / "killing.py", MOMENTS, *words, limit=None)
    now = progress.read_progress(plan.read_plan(store), worker.claims_store(tmp_path / "sweep"))
    results = [json.loads(path.read_text()) for path in tmp_path.glob("sweep/*/result.json")]
    assert (now.finished, now.failed) == (RUNS, {})
    assert [result["steps"] for result in results] == [[i**2 for i in range(stand_in.STEPS)]] * RUNS
    assert (tmp_path / "sweep" / "moments").read_text() == "0 are left"


STOPPING = """
import json, os, signal, sys, threading, time
from pathlib import Path
import stand_in
from pini_jax.core import command
from pini_jax.launch import ray_workers

def stop_one(claims):
    while not (found := list(claims.glob("*/*.claim"))):
        time.sleep(0.05)
    os.kill(int(json.loads(found[0].read_text())["worker"].split("-")[-2]), signal.SIGTERM)

workdir = Path(sys.argv[-1].partition("=")[2])
threading.Thread(target=stop_one, args=(workdir / ".sweep" / "claims",), daemon=True).start()
ray_workers.work = stand_in.work_on_ray
command.run(ray_workers.COMMAND)
"""


def test_a_worker_that_is_asked_to_stop_gives_its_claim_back(tmp_path):
    """And Ray starts the worker again."""
    (tmp_path / "stopping.py").write_text(STOPPING)
    store = Folder(tmp_path / "sweep")
    plan.write_plan(plan.make_plan({"population": {"seed": tuple(range(6))}}, together=2), store)
    alone(
        tmp_path / "stopping.py",
        "--address=local",
        "--workers=1",
        "--lease=3600",
        f"--workdir={tmp_path / 'sweep'}",
    )
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 6
    assert len(list(tmp_path.glob("sweep/.sweep/claims/*/*.stopped"))) == 1


FAILING = """
import time
import stand_in
from pini_jax.core import command
from pini_jax.launch import ray_workers
from pini_jax.runs import worker

def no_answer(*_):
    raise OSError("gs://b gives no answer")

def work(workdir, options):
    "The first of them finds its bucket gone, when the other one is at work."
    if options.first == 0.0:
        while not list(worker.claims_store(workdir).times("claims/0000")):
            time.sleep(0.1)
        worker.read_plan = no_answer
    return work_on_ray(workdir, options)

work_on_ray = stand_in.work_on_ray
ray_workers.work = work
command.run(ray_workers.COMMAND)
"""


def test_a_worker_whose_files_are_away_ends_no_other(tmp_path, capfd):
    (tmp_path / "failing.py").write_text(FAILING)
    store = Folder(tmp_path / "sweep")
    plan.write_plan(plan.make_plan({"population": {"seed": tuple(range(6))}}, together=2), store)
    with pytest.raises(subprocess.CalledProcessError) as ended:
        alone(tmp_path / "failing.py", "--address=local", "--workers=2", f"--workdir={tmp_path / 'sweep'}")
    assert ended.value.returncode == 1 and "error: gs://b gives no answer\n" in capfd.readouterr().err
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 6


MORTAL = """
import os, runpy, signal, sys
from pathlib import Path
import pini_jax, ray

class Mortal(pini_jax.BatchClassifier):
    "Its first worker dies in its second batch."
    def __call__(self, batch):
        mark = Path(os.environ["MARK"])
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)

pini_jax.BatchClassifier = Mortal
ray.init(num_cpus=3, include_dashboard=False)
example, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(example, run_name="__main__")
"""


def test_every_row_is_answered_once_though_a_worker_is_killed(tmp_path, fitted_run, monkeypatch):
    arrow, parquet = emulators.needed("pyarrow"), emulators.needed("pyarrow.parquet")
    images = [emulators.png(np.full((8, 8), i % 256, np.uint8)) for i in range(300)]
    images[0] = digits.load_digits().test[0].source
    table = arrow.table({"path": [f"{i}.png" for i in range(300)], "image": images})
    parquet.write_table(table, tmp_path / "images.parquet", row_group_size=50)
    (tmp_path / "mortal.py").write_text(MORTAL)
    monkeypatch.setenv("MARK", str(tmp_path / "died"))
    alone(tmp_path / "mortal.py", EXAMPLE, fitted_run, tmp_path / "images.parquet", tmp_path / "answers")
    rows = parquet.read_table(tmp_path / "answers").to_pylist()
    assert (tmp_path / "died").exists()
    assert sorted(row["path"] for row in rows) == sorted(f"{i}.png" for i in range(300))
    assert all(row["class"] and not row["error"] for row in rows) and "image" not in rows[0]
