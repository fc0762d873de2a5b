"""The array's script alone: signals at bad moments, and a SLURM that only writes down what it is asked."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sh"
TASK = {
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_MIN": "3",
    "SLURM_ARRAY_TASK_MAX": "4",
    "SLURM_ARRAY_TASK_COUNT": "2",
}
# A worker that says when it can be stopped, or when it has been started and cannot yet.
WORKER = """#!{python}
import os, pathlib, signal, sys
{listens} and signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
os.write({told}, b"started")
signal.pause()
"""
# The script asks itself to stop between two of its own lines.
EARLY = """
trap 'case $BASH_COMMAND in worker=\\$!) trap - DEBUG; kill -USR1 $$ ;; esac' DEBUG
"""


@pytest.fixture
def begin(tmp_path):
    """Starts the script with such a worker; the process, and what is written when the worker has started."""
    for name, does in {"scontrol": f'echo "$@" >> {tmp_path}/asked', "squeue": "echo ${STATE-RUNNING}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    reading, writing = os.pipe()

    def begin(listens, **more):
        pini = tmp_path / "pini"
        pini.write_text(WORKER.format(python=sys.executable, listens=listens, told=writing))
        pini.chmod(0o755)
        variables = TASK | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "WORKDIR": str(tmp_path),
            "PINI": str(pini),
        }
        process = subprocess.Popen(["bash", SCRIPT], env=variables | more, pass_fds=[writing])
        os.close(writing)
        return process, reading

    yield begin
    os.close(reading)


def requeued(folder):
    return (folder / "asked").read_text() if (folder / "asked").exists() else ""


@pytest.mark.parametrize(("listens", "status"), [(True, 42), (False, 128 + signal.SIGTERM)])
@pytest.mark.parametrize("which", [signal.SIGUSR1, signal.SIGTERM])
def test_a_task_that_is_asked_to_stop_is_put_back(begin, tmp_path, which, listens, status):
    """Though its worker may not have listened yet, and is killed."""
    process, reading = begin(listens)
    assert os.read(reading, 7) == b"started"
    process.send_signal(which)
    assert process.wait(60) == status and requeued(tmp_path) == "requeue 7_3\n"


def test_a_task_that_was_cancelled_stays_so(begin, tmp_path):
    process, reading = begin(True, STATE="COMPLETING")
    assert os.read(reading, 7) == b"started"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 42 and not requeued(tmp_path)


@pytest.mark.parametrize("which", ["squeue", "scontrol"])
def test_a_controller_that_does_not_answer_is_asked_again(begin, tmp_path, which):
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)
    answer = (tmp_path / which).read_text().splitlines()[1]
    (tmp_path / which).write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/late ] || {{ touch {tmp_path}/late; exit 1; }}\n{answer}\n"
    )
    process, reading = begin(True)
    assert os.read(reading, 7) == b"started"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 42 and requeued(tmp_path) == "requeue 7_3\n"


def test_a_task_whose_worker_is_killed_unasked_has_failed(begin, tmp_path):
    process, reading = begin(False)
    assert os.read(reading, 7) == b"started"
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    assert process.wait(60) == 128 + signal.SIGKILL and not requeued(tmp_path)


def test_a_signal_before_the_worker_is_known_is_passed_on(begin, tmp_path):
    """And the worker is not left behind: its end of the pipe is closed."""
    (tmp_path / "early").write_text(EARLY)
    process, reading = begin(True, BASH_ENV=str(tmp_path / "early"))
    assert process.wait(60) in (42, 128 + signal.SIGTERM) and requeued(tmp_path) == "requeue 7_3\n"
    assert os.read(reading, 7) in (b"", b"started") and os.read(reading, 7) == b""


def test_the_tasks_of_one_run_have_the_cores_that_were_asked_for(begin, tmp_path):
    """Which srun does not know from sbatch since SLURM 22.05. They are stopped, and the job is put back."""
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"; exit 42\n')
    (tmp_path / "srun").chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_ID": "7"}
    script = ["bash", SCRIPT.with_stem("slurm_train"), "--workdir=/a"]
    done = subprocess.run(script, env=variables, capture_output=True, text=True)
    assert done.stdout == "--cpus-per-task=8 pini train --distributed --workdir=/a\n"
    assert done.returncode == 42 and requeued(tmp_path) == "requeue 7\n"
