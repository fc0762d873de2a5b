"""Works on a planned sweep on the machines of a Ray cluster.

    python -m pini_jax.launch.ray_workers --workdir=/shared/paper --workers=16 --gpus=1

Every worker is a task of Ray, in a process of its own that ends with it; Ray starts it again elsewhere where its
machine is lost, and what it had claimed is taken over. One that is sent SIGTERM saves, and gives its claim back.
The workdir is a folder that all machines see, and pini_jax is installed on all of them, as is Ray:
`pip install ray`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from pini_jax.core import command, paths, runtime, stop
from pini_jax.core.errors import InputError, last_line
from pini_jax.core.store import open_store
from pini_jax.launch import sweep_run
from pini_jax.runs import plan, worker
from pini_jax.runs.worker import Options

LOSSES = 100  # machines that a worker may lose


def define_flags(values: flags.FlagValues) -> None:
    """Where the sweep is, how many workers there are, and what each needs."""
    flags.DEFINE_string("workdir", None, "Folder that pini sweep plan has written.", flag_values=values)
    flags.DEFINE_integer("workers", 1, "Workers at most.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("gpus", 0.0, "GPUs of a worker.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("cpus", 1.0, "Cores of a worker.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_string("address", "auto", "Of the cluster; `local` starts one here.", flag_values=values)
    sweep_run.define_rules(values)


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Starts the workers, and waits for all.

    Raises:
        InputError: there is no plan; or some runs have failed for good.
    """
    paths.check_address("--workdir", values.workdir)
    try:
        import ray
    except ImportError as error:
        raise InputError(f"Ray cannot be imported ({last_line(error)}): pip install ray") from None
    units = len(plan.read_plan(open_store(values.workdir)).units)
    count = min(values.workers, units)
    ray.init(address=values.address, log_to_driver=True)
    task = ray.remote(max_retries=LOSSES, max_calls=1, num_gpus=values.gpus, num_cpus=values.cpus)(work)
    asked = [
        task.remote(values.workdir, Options(i / count, values.lease, values.retries, wait=False))
        for i in range(count)
    ]
    problems: list[Any] = [problem for problem in ray.get(asked) if problem]
    ray.shutdown()
    if problems:
        raise InputError("; ".join(dict.fromkeys(problems)))


def work(workdir: str, options: Options) -> str:
    """A worker on a machine of the cluster; what it says of runs that failed or files that are away.

    Ray is not to try that again, and a task that raises would end all others.
    """
    runtime.prepare()
    stop.listen()  # in place of Ray's own handlers, which would end the process with its claim
    try:
        worker.work(workdir, options)
    except stop.Stopped:
        sys.exit(stop.STATUS)  # Ray takes the worker for lost, and starts the task again
    except (InputError, OSError) as error:
        return str(error)
    return ""


COMMAND = command.Command(
    "python -m pini_jax.launch.ray_workers", __doc__, define_flags, main, required=("workdir",)
)

if __name__ == "__main__":
    command.run(COMMAND)
