"""Reports the progress of a planned sweep, and how long it will take.

    pini sweep status runs/paper
    pini sweep status runs/paper --watch
    pini sweep status runs/paper --json

Reads the sweep's folder alone, and writes nothing: it works from any machine that sees the folder, while workers
run and afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command, paths
from pini_jax.core.errors import UsageError
from pini_jax.core.store import open_store
from pini_jax.core.wording import MOST, duration
from pini_jax.launch import sweep_run
from pini_jax.runs import plan, progress, worker
from pini_jax.runs.progress import Progress

PERIOD = 10.0  # seconds
SKEW = 600.0  # seconds that this machine's clock may be ahead of the store's
CLEAR = "\033[2J\033[H"  # of a terminal


def define_flags(values: flags.FlagValues) -> None:
    """How it is shown."""
    flags.DEFINE_bool("watch", False, "Whether to show it again and again until all is over.", flag_values=values)
    flags.DEFINE_bool("json", False, "Whether to print JSON, a line each time.", flag_values=values)
    sweep_run.define_retries(values)


def main(values: flags.FlagValues, folders: Sequence[str]) -> None:
    """Shows it once, or until nothing is left."""
    if len(folders) > 1:
        raise UsageError("name one FOLDER")
    paths.check_address("FOLDER", folders[0])
    workdir = folders[0].rstrip("/")
    whole, store = plan.read_plan(open_store(workdir)), worker.claims_store(workdir)
    while True:
        now = progress.read_progress(whole, store, values.retries, not_before=time.time() - SKEW)
        print(
            json.dumps(progress.as_dict(now)) if values.json else "\n".join(table(now, Path(workdir).name)),
            flush=True,
        )
        if not values.watch or now.finished + len(now.failed) == now.runs:
            return
        time.sleep(PERIOD)
        print(end="" if values.json else CLEAR)


def table(now: Progress, name: str) -> Iterator[str]:
    """For people."""
    yield (
        f"{name}: {now.runs} runs, {now.finished} finished, {now.num_running} running, {now.waiting} waiting, "
        + (f"{len(now.failed)} failed")
    )
    if now.seconds_left:
        yield f"time left: {duration(now.seconds_left)}"
    if now.running:
        yield f"{'unit':>6}  {'step':>17}  {'steps/s':>8}  worker"
    for unit, by, step, steps, rate in now.running[:MOST]:
        yield f"{unit:6}  {f'{step:,} / {steps:,}':>17}  {rate:8.1f}  {by}"
    if len(now.running) > MOST:
        yield f"        and {len(now.running) - MOST} more units"
    for run, reason in [*now.failed.items()][:MOST]:
        yield f"failed: {run}: {reason}"
    if len(now.failed) > MOST:
        yield f"        and {len(now.failed) - MOST} more"


COMMAND = command.Command("pini sweep status", __doc__, define_flags, main, argument="FOLDER")

if __name__ == "__main__":
    command.run(COMMAND)
