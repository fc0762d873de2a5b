"""A real SLURM, started here without systemd: munged, slurmctld, and a slurmd for every node."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
SEARCH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
SCRIPT = Path(__file__).parents[1] / "launch" / "slurm.sh"
missing = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]
HOST = socket.gethostname().partition(".")[0]  # as SLURM calls it, and where a node of this name is reached
needed = [
    pytest.mark.skipif(bool(missing), reason=f"SLURM is not installed: no {', '.join(missing)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons are started by root alone"),
]

CONF = """
ClusterName=pini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 Gres=gpu:4 State=UNKNOWN"
GPUS = "".join(f"Name=gpu File=/dev/{name}\n" for name in ("null", "zero", "full", "random"))  # stand-ins


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Slurm:
    """A cluster whose nodes are all this machine; its folder is short, for the socket's sake."""

    def __init__(self, folder, stack, nodes):
        self.folder = folder
        conf = folder / "slurm.conf"
        lines = [NODE.format(name=name, host=HOST, port=free_port()) for name in nodes]
        content = {"host": HOST, "folder": folder, "controller": free_port(), "nodes": "\n".join(lines)}
        conf.write_text(CONF.format(**content))
        (folder / "cgroup.conf").write_text("")
        (folder / "gres.conf").write_text(GPUS)
        self.environment = os.environ | {"SLURM_CONF": str(conf), "PATH": SEARCH}
        for name in ("state", *(f"spool-{node}" for node in nodes)):
            (folder / name).mkdir()
        os.chmod(folder, 0o755)
        self("mungekey", "-c", "-k", str(folder / "munge.key"))
        own = [f"--{name}={folder}/munge.{name[:4]}" for name in ("key-file", "pid-file", "log-file", "seed-file")]
        own[0] = f"--key-file={folder}/munge.key"
        self._start(stack, "munged", "-F", "--force", f"--socket={folder}/munge.socket", *own)
        self.wait(lambda: (folder / "munge.socket").exists())
        self._start(stack, "slurmctld", "-D", "-c")
        for node in nodes:
            self._start(stack, "slurmd", "-D", "-N", node)
        self.wait(lambda: self("sinfo", "-h", "-N", "-o", "%T", check=False).split() == ["idle"] * len(nodes))

    def _start(self, stack, *command):
        with open(self.folder / f"{command[0]}.out", "a") as output:
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

    def submit(self, workdir, program, *options, flags=()):
        """Starts an array of workers; its number."""
        own = ("--parsable", "--cpus-per-task=1", f"--output={workdir}/task-%a.log")
        variables = f"--export=ALL,WORKDIR={workdir},PINI={program}"
        return self("sbatch", *own, *options, variables, str(SCRIPT), *flags).strip()

    def over(self, job):
        """Whether nothing of it is left in the queue."""
        return not self("squeue", "-h", "-j", job, check=False).strip()


@contextlib.contextmanager
def cluster(*nodes):
    """Started, and ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, contextlib.ExitStack() as stack:
        yield Slurm(Path(folder), stack, nodes)
