"""Works on a planned sweep, alongside any number of other workers.

    pini sweep run --workdir=runs/paper
    pini sweep run --workdir=runs/paper --workers=4
    pini sweep run --workdir=runs/paper --worker=0/8

Workers are started and killed at any time, on any machine that sees the workdir: they share the work by claims in
it, and need no server. A worker that is gone for the length of the lease is replaced by whoever is there, from its
last checkpoint. `pini sweep plan` makes the plan, and `pini sweep status` says how far all of them are.
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

import re
import sys
from collections.abc import Sequence

from absl import flags

from pini_jax.core import command, paths
from pini_jax.launch import local
from pini_jax.runs import claims, worker
from pini_jax.runs.worker import Options
from pini_jax.train import writers

MODULE = "pini_jax.launch.sweep_run"


def define_flags(values: flags.FlagValues) -> None:
    """Where the sweep is, and how this worker works."""
    flags.DEFINE_string(
        "workdir", None, "Folder or bucket that pini sweep plan has written to.", flag_values=values
    )
    text = "This worker's number, from 0, and how many there are: where it begins, so that few try the same."
    flags.DEFINE_string("worker", None, text, flag_values=values)
    flags.register_validator("worker", _is_share, "must be such as 0/8", flag_values=values)
    text = "Workers to start on this machine, each with its part of the devices."
    flags.DEFINE_integer("workers", 1, text, lower_bound=1, flag_values=values)
    define_rules(values)
    text = f"Where numbers go besides metrics.jsonl: {', '.join(writers.WRITERS)}."
    flags.DEFINE_list("writers", [], text, flag_values=values)
    text = (
        "Whether to stay while others work, for what they may leave behind; or else until they are known to live."
    )
    flags.DEFINE_bool("wait", True, text, flag_values=values)


def define_rules(values: flags.FlagValues) -> None:
    """What all workers of a sweep are to agree on."""
    text = "Seconds without a sign of life after which a worker is taken for lost."
    flags.DEFINE_float("lease", claims.LEASE, text, lower_bound=1.0, flag_values=values)
    define_retries(values)


def define_retries(values: flags.FlagValues) -> None:
    """After how many failures runs have failed for good."""
    text = "How often runs that have failed are tried again."
    flags.DEFINE_integer("retries", claims.RETRIES, text, lower_bound=0, flag_values=values)


def _is_share(word: str | None) -> bool:
    match = re.fullmatch(r"(\d+)/(\d+)", word or "0/1")
    return match is not None and int(match[1]) < int(match[2])


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Works until there is nothing left."""
    paths.check_address("--workdir", values.workdir)
    if values.workers > 1:
        rules = [f"--{name}={values[name].value}" for name in ("workdir", "lease", "retries", "wait")]
        rules.append(f"--writers={','.join(values.writers)}")
        command = [sys.executable, "-m", MODULE, *rules]
        sys.exit(local.run_workers(command, values.workers, leaving=not values.wait))
    first = None
    if values.worker:
        number, count = map(int, values.worker.split("/"))
        first = number / count
    with writers.writing_to(values.writers):
        worker.work(values.workdir, Options(first, values.lease, values.retries, values.wait))


COMMAND = command.Command("pini sweep run", __doc__, define_flags, main, required=("workdir",))

if __name__ == "__main__":
    command.run(COMMAND)
