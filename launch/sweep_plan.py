"""Plans a sweep: its runs, and which of them share a compiled step.

    pini sweep plan --config=paper_sweep:data_dir=/data --workdir=runs/paper
    pini sweep plan --config=digits --config.population='{"shots": (1, 4), "seed": (1, 2)}'

Writes plan.jsonl of the workdir, or prints it where there is no workdir: a line for every run, with its folder,
the unit of work that it belongs to, and what its training costs. A config has several runs by its `population`, or
by a function `sweep()` that yields {key: value, ...} for every run. `pini sweep run` trains what is planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command, config_file, paths
from pini_jax.core.errors import InputError
from pini_jax.core.store import open_store
from pini_jax.core.wording import listed
from pini_jax.runs import plan as plans
from pini_jax.runs.attempts import OWN


def define_flags(values: flags.FlagValues) -> None:
    """The config, where the plan goes, and how it is cut."""
    config_file.define_flag(values)
    flags.DEFINE_string("workdir", None, "Folder of the runs' folders, here or in a bucket.", flag_values=values)
    text = "Runs at most that one worker trains side by side, with the towers loaded once."
    flags.DEFINE_integer("together", plans.TOGETHER, text, lower_bound=1, flag_values=values)


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Writes or prints the plan."""
    plan = plans.make_plan(values.config, values.together)
    if not values.workdir:
        for line in plans.lines(plan):
            print(line)
        return
    paths.check_address("--workdir", values.workdir)
    write(plan, values.workdir)
    print(f"{len(plan.runs)} runs in {len(plan.units)} units: pini sweep run --workdir={values.workdir}")


def write(plan: plans.Plan, workdir: str | Path) -> None:
    """Writes the plan into a folder where no other command has begun one of its runs.

    Raises:
        InputError: one has, or there is another plan.
    """
    store = open_store(workdir)
    there = store.names()
    if (begun := there & {OWN, *(run.name for run in plan.runs)}) and plans.FILE not in there:
        raise InputError(
            f"{workdir} holds runs that another command began ({listed(sorted(begun))}): choose another"
        )
    plans.write_plan(plan, store)


COMMAND = command.Command("pini sweep plan", __doc__, define_flags, main, required=("config",))

if __name__ == "__main__":
    command.run(COMMAND)
