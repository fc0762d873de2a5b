"""The array of workers on a real SLURM, which starts here without systemd: munged, slurmctld and slurmd."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
SEARCH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sh"
missing = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"SLURM is not installed: no {', '.join(missing)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons are started by root alone"),
]

CONF = """
ClusterName=pini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Slurm:
    """A cluster of one node; its folder is short, for the socket's sake."""

    def __init__(self, folder, stack):
        self.folder = folder
        conf = folder / "slurm.conf"
        ports = {"controller": free_port(), "node": free_port()}
        conf.write_text(CONF.format(host=socket.gethostname().partition(".")[0], folder=folder, **ports))
        (folder / "cgroup.conf").write_text("")
        self.environment = os.environ | {"SLURM_CONF": str(conf), "PATH": SEARCH}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        os.chmod(folder, 0o755)
        self("mungekey", "-c", "-k", str(folder / "munge.key"))
        own = [f"--{name}={folder}/munge.{name[:4]}" for name in ("key-file", "pid-file", "log-file", "seed-file")]
        own[0] = f"--key-file={folder}/munge.key"
        self._start(stack, "munged", "-F", "--force", f"--socket={folder}/munge.socket", *own)
        self.wait(lambda: (folder / "munge.socket").exists())
        self._start(stack, "slurmctld", "-D", "-c")
        self._start(stack, "slurmd", "-D")
        self.wait(lambda: "idle" in self("sinfo", "-h", "-o", "%T", check=False))

    def _start(self, stack, *command):
        with open(self.folder / f"{command[0]}.out", "w") as output:
            daemon = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        stack.callback(daemon.wait, 60)
        stack.callback(daemon.terminate)

    def __call__(self, *command, check=True):
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def wait(self, holds, seconds=300):
        """A server says by itself when it is ready."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "\n".join(x.read_text() for x in self.folder.glob("*.[lo][ou][gt]"))
            time.sleep(0.2)

    def submit(self, workdir, program, *options):
        """Starts an array of workers; its number."""
        variables = f"--export=ALL,WORKDIR={workdir},PINI={program}"
        log = f"--output={workdir}/task-%a.log"
        found = self(
            "sbatch", "--parsable", "--gpus-per-task=0", "--cpus-per-task=1", *options, variables, log, str(SCRIPT)
        )
        return found.strip()

    def over(self, job):
        """Whether nothing of it is left in the queue."""
        return not self("squeue", "-h", "-j", job, check=False).strip()


@pytest.fixture(scope="module")
def slurm():
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, contextlib.ExitStack() as stack:
        yield Slurm(Path(folder), stack)


STAND_IN = """#!{python}
import pathlib, signal, sys
share = next(word for word in sys.argv if word.startswith("--worker=")).partition("=")[2]
workdir = pathlib.Path(next(word for word in sys.argv if word.startswith("--workdir=")).partition("=")[2])
runs = workdir / f"runs-{{share.replace('/', '-of-')}}"
with runs.open("a") as file:
    print(*sys.argv[1:3], "--nowait" in sys.argv, file=file)
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
@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_worker_that_was_asked_to_stop_is_put_back(slurm, stand_in, signal):
    """By the signal that comes to the shell alone."""
    folder = stand_in.parent
    job = slurm.submit(folder, stand_in, "--array=3-4")
    slurm.wait(lambda: len(list(folder.glob("runs-*"))) == 2)
    slurm("scancel", "--batch", f"--signal={signal}", job)
    slurm.wait(lambda: slurm.over(job))
    assert sorted(path.name for path in folder.glob("runs-*")) == ["runs-0-of-2", "runs-1-of-2"]
    for path in folder.glob("runs-*"):
        assert path.read_text() == "sweep run True\n" * 2


@pytest.mark.long
def test_a_sweep_on_slurm(slurm, tmp_path):
    """Two workers that train for real, asked to stop in the middle: every run is finished once."""
    os.chmod(tmp_path, 0o755)
    pini = tmp_path / "pini"
    root = Path(__file__).parents[2]
    pini.write_text(f'#!/bin/sh\ncd {root} && exec {sys.executable} -m pini_jax.cli "$@"\n')
    pini.chmod(0o755)
    several = "--config.population={'seed': (1, 2, 3, 4), 'shots': (1, 4)}"
    config = "--config=digits:method=task_res,optim.epochs=50"
    subprocess.run([pini, "sweep", "plan", config, several, "--together=2", f"--workdir={tmp_path}/w"], check=True)
    job = slurm.submit(tmp_path / "w", pini, "--array=0-1")
    slurm.wait(lambda: list(tmp_path.glob("w/.sweep/attempts/*/*/metrics.jsonl")), 600)
    slurm("scancel", "--batch", "--signal=USR1", job)
    slurm.wait(lambda: slurm.over(job), 600)
    assert len(list(tmp_path.glob("w/*/result.json"))) == 8, (tmp_path / "w" / "task-0.log").read_text()
