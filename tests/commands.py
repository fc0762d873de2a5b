"""Runs of the command line in processes of their own, as a user starts them."""

import json
import math
import os
import socket
import subprocess
import sys
import time

from pini_jax.core.paths import cache_folder

# Many checkpoints and few steps: 40 images, two steps per epoch.
SHORT = (
    "--config=configs/digits.py",
    "--config.shots=4",
    "--config.batch_size=16",
    "--config.views=2",
    "--config.optim.epochs=100",
    "--config.log_every=10",
    "--config.checkpoint_every=10",
    "--config.num_draws=4",
)
STOPPED = "stopped: everything is saved, and the same command goes on from there"
TIMINGS = ("seconds", "steps_per_second", "peak_bytes", "device", "seal")


def start(workdir, *overrides, devices=1, limit="true", environment=None, module="pini_jax.main"):
    """Starts a short run; later overrides win; `limit` is a shell command that goes before."""
    devices_flag = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    environment = os.environ | devices_flag | (environment or {})
    command = [sys.executable, "-m", module, *SHORT, f"--workdir={workdir}", *overrides]
    shell = ["sh", "-c", f'{limit} && exec "$@"', "sh"]
    return subprocess.Popen(
        shell + command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_job(workdir, *overrides, devices=1, count=2, caches=None, own=None):
    """Starts the processes of one run; `caches` and `own` are their cache folders and settings, if unlike."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    who = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    environments = [who | {"JAX_PROCESS_ID": str(i)} for i in range(count)]
    for environment, cache in zip(environments, caches or [], strict=False):
        environment["XDG_CACHE_HOME"] = str(cache)
    settings = [(*overrides, *each, "--distributed") for each in own or [()] * count]
    return [
        start(workdir, *each, devices=devices, environment=environment)
        for each, environment in zip(settings, environments, strict=True)
    ]


def finish(process):
    """Its output, once it has ended well."""
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output
    return output


def wait_for(process, condition):
    """Until something is so, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.001)


def computed(pid):
    """Seconds that a process has computed, which a busy machine makes no longer; endless if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
    except (FileNotFoundError, ProcessLookupError):
        return math.inf
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def steps_saved(workdir):
    """Of the checkpoints, in order."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def saving(workdir):
    """Whether a checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*tmp*"))


def result(workdir):
    """result.json without what the clock and the machine put into it."""
    content = json.loads((workdir / "result.json").read_text())
    return {key: value for key, value in content.items() if key not in TIMINGS}


def content(workdir):
    """All of a run that is the same whatever happened on the way."""
    names = ("injector.safetensors", "metrics.jsonl", "config.json", "selection.json")
    files = {name: (workdir / name).read_bytes() for name in names}
    return result(workdir), files, steps_saved(workdir)


def make_cache(folder, shared=True):
    """An empty cache; with the programs that all tests share, unless these are to be compiled too."""
    (folder / "pini_jax").mkdir(parents=True, exist_ok=True)
    programs = folder / "pini_jax" / "programs"
    if shared and not programs.exists():
        programs.symlink_to(cache_folder() / "programs")
