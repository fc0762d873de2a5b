"""Several workers on one machine, each a process with its part of the GPUs or TPU chips.

All share the cores: what a CPU computes depends on how many it has, to the last bit, and no result may depend on
who trained it.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pini_jax.core import stop
from pini_jax.core.errors import InputError

GPUS, CHIPS = "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"  # the devices that a process sees
MEMORY = 0.9  # of a GPU that the processes on it take in advance, all together
# How the chips of one process lie: libtpu wants to know.
BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
GRACE = 60.0  # seconds that workers have to save what they have
LOG = logging.getLogger("pini_jax.launch")


def run_workers(command: Sequence[str], count: int, leaving: bool = False) -> int:
    """Runs a command as so many workers of a sweep, waits for all, and returns a status for all of them.

    A request to stop is passed on to them. One that is killed costs the others nothing: they take its work over,
    unless they leave early.

    Args:
        leaving: whether a worker ends while others still work.
    """
    environments = [environment(visible(os.environ), i, count) for i in range(count)]
    workers = [
        # In sessions of their own: Ctrl-C comes to them once, from here.
        subprocess.Popen([*command, f"--worker={i}/{count}"], env=os.environ | own, start_new_session=True)
        for i, own in enumerate(environments)
    ]
    try:
        _wait(workers)
    finally:
        for worker in workers:
            worker.kill()
        ended = [worker.wait() for worker in workers]
    if killed := [i for i, status in enumerate(ended) if status < 0]:
        LOG.warning("workers that were killed: %s", ", ".join(map(str, killed)))
    return status_of(ended, stop.requested(), leaving)


def status_of(ended: Sequence[int], stopped: bool, leaving: bool) -> int:
    """The status of all workers together: the greatest of theirs.

    A killed worker has none of its own. It counts as stopped if that was asked for, and as failed if the others do
    not stay to take over its work.
    """
    told = [status for status in ended if status >= 0]
    if len(told) < len(ended):
        told += [stop.STATUS] * stopped + [1] * leaving
    return max(told, default=1)


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended; a request to stop leaves them some time for it."""
    end = float("inf")
    while any(worker.poll() is None for worker in workers) and time.monotonic() < end:
        if end == float("inf") and stop.requested():
            end = time.monotonic() + GRACE
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
        time.sleep(0.1)


def visible(environ: Mapping[str, str]) -> dict[str, list[str]]:
    """{variable: devices} of this machine, as far as this process may see them."""
    chips = [path.name.removeprefix("accel") for folder in ("/dev", "/dev/vfio") for path in _devices(folder)]
    gpus = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    found = {GPUS: gpus, CHIPS: sorted(chips)}
    told = {name: environ[name].split(",") for name in found if name in environ}
    return found | {name: [*filter(None, devices)] for name, devices in told.items()}  # "" is none at all


def _devices(folder: str) -> list[Path]:
    pattern = r"accel\d+" if folder == "/dev" else r"\d+"
    return [path for path in Path(folder).glob("*") if re.fullmatch(pattern, path.name)]


def environment(devices: Mapping[str, Sequence[str]], number: int, count: int) -> dict[str, str]:
    """What one of `count` workers is told of the devices: its part, or a part of the memory of one.

    Raises:
        InputError: there are too few chips, which processes cannot share.
    """
    told = {}
    if gpus := devices[GPUS]:
        told[GPUS] = ",".join(gpus[number::count] or [gpus[number % len(gpus)]])
        sharing = -(-count // len(gpus))
        if sharing > 1:
            told["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY / sharing:.3f}"
    if chips := devices[CHIPS]:
        each = len(chips) // count
        if each not in BOUNDS:
            raise InputError(f"{count} workers cannot share {len(chips)} TPU chips: 1, 2, 4 or 8 for each")
        told[CHIPS] = ",".join(chips[number * each : (number + 1) * each])
        told |= {"TPU_CHIPS_PER_PROCESS_BOUNDS": BOUNDS[each], "TPU_PROCESS_BOUNDS": "1,1,1"}
    return told
