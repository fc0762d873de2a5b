"""The array of workers on a real SLURM."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import slurm as engine

pytestmark = engine.needed


@pytest.fixture(scope="module")
def slurm():
    with engine.cluster(engine.HOST) as slurm:
        yield slurm


STAND_IN = """#!{python}
import os, pathlib, signal, sys
share = next(word for word in sys.argv if word.startswith("--worker=")).partition("=")[2]
workdir = pathlib.Path(next(word for word in sys.argv if word.startswith("--workdir=")).partition("=")[2])
runs = workdir / f"runs-{{share.replace('/', '-of-')}}"
with runs.open("a") as file:
    print(*sys.argv[1:3], "--nowait" in sys.argv, file=file)
(workdir / f"gpu-{{os.environ['CUDA_VISIBLE_DEVICES']}}").touch()
if len(runs.read_text().splitlines()) == 1:
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pause()
    sys.exit(42)
"""


@pytest.fixture
def stand_in(tmp_path):
    """A worker that waits for a request to stop, and ends well when it is started again."""
    os.chmod(tmp_path, 0o755)
    program = tmp_path / "pini"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    return program


@pytest.mark.long
@pytest.mark.parametrize(
    ("signal", "indices", "workers"),
    [
        ("USR1", "3-4", "0-of-2 1-of-2"),
        ("TERM", "3,7", "0-of-5 4-of-5"),
        ("USR1", "1-7:2", "0-of-7 2-of-7 4-of-7 6-of-7"),
    ],
)
def test_a_worker_that_was_asked_to_stop_is_put_back(slurm, stand_in, signal, indices, workers):
    """By the signal that comes to the shell alone; each has a GPU of its own."""
    folder, names = stand_in.parent, [f"runs-{worker}" for worker in workers.split()]
    job = slurm.submit(folder, stand_in, f"--array={indices}")
    slurm.wait(lambda: len(list(folder.glob("runs-*"))) == len(names))
    slurm.wait(lambda: len(list(folder.glob("gpu-*"))) == len(names))
    slurm("scancel", "--batch", f"--signal={signal}", job)
    slurm.wait(lambda: slurm.over(job))
    assert sorted(path.name for path in folder.glob("runs-*")) == names
    for path in folder.glob("runs-*"):
        assert path.read_text() == "sweep run True\n" * 2


@pytest.mark.long
def test_what_a_user_cancels_does_not_come_back(slurm, stand_in):
    """Though its workers save and end as if they were to go on."""
    folder = stand_in.parent
    job = slurm.submit(folder, stand_in, "--array=0-1")
    slurm.wait(lambda: len(list(folder.glob("gpu-*"))) == 2)
    slurm("scancel", job)
    slurm.wait(lambda: slurm.over(job))
    assert [path.read_text() for path in folder.glob("runs-*")] == ["sweep run True\n"] * 2


@pytest.fixture
def pini(tmp_path):
    """The command line, for whoever starts it anywhere."""
    os.chmod(tmp_path, 0o755)
    program = tmp_path / "pini"
    root = Path(__file__).parents[2]
    program.write_text(f'#!/bin/sh\ncd {root} && exec {sys.executable} -m pini_jax.cli "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.long
def test_a_sweep_on_slurm(slurm, tmp_path, pini):
    """Two workers that train for real, asked to stop in the middle: every run is finished once."""
    several = "--config.population={'seed': (1, 2, 3, 4), 'shots': (1, 4)}"
    config = "--config=digits:method=task_res,optim.epochs=50"
    subprocess.run([pini, "sweep", "plan", config, several, "--together=2", f"--workdir={tmp_path}/w"], check=True)
    job = slurm.submit(tmp_path / "w", pini, "--array=0-1")
    slurm.wait(lambda: list(tmp_path.glob("w/.sweep/attempts/*/*/metrics.jsonl")), 600)
    slurm("scancel", "--batch", "--signal=USR1", job)
    slurm.wait(lambda: slurm.over(job), 600)
    assert len(list(tmp_path.glob("w/*/result.json"))) == 8, (tmp_path / "w" / "task-0.log").read_text()


@pytest.mark.long
def test_one_run_over_several_tasks(slurm, tmp_path, pini):
    """Warned in the middle, both stop at one step; the job is put back, and goes on."""
    log = tmp_path / "log"
    job = slurm(
        *("sbatch", "--parsable", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1"),
        *(
            f"--output={log}",
            f"--export=ALL,JAX_PLATFORMS=cpu,PINI={pini}",
            engine.SCRIPT.with_stem("slurm_train"),
        ),
        *("--config=digits:method=task_res,optim.epochs=200", f"--workdir={tmp_path / 'run'}"),
    ).strip()
    slurm.wait(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), 600)
    slurm("scancel", "--signal=USR1", job)
    slurm.wait(lambda: slurm.over(job), 600)
    said = log.read_text()
    assert said.count("stopped: everything is saved") == 2 and said.count("going on from step") == 1, said
    assert (tmp_path / "run" / "result.json").exists(), said
