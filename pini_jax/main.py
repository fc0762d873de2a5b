"""Trains one run, or many.

    pini train --config=digits --workdir=runs/digits
    pini train --config=paper:dataset=oxford_pets,data_dir=/data --workdir=runs/pets --config.optim.lr=0.002

Prints the result, and keeps it in result.json of the workdir. The same command goes on where it was stopped, and
what is finished it does not repeat. `--config.population='{"seed": (1, 2, 3)}'` trains a run for each of them.
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

from collections.abc import Sequence
from contextlib import ExitStack

import jax
from absl import flags

from pini_jax.core import command, config_file, processes
from pini_jax.core.paths import check_address, refuse_bucket
from pini_jax.report import terminal
from pini_jax.runs import population
from pini_jax.runs.staged import staged
from pini_jax.train import profile, writers


def define_flags(values: flags.FlagValues) -> None:
    """The flags of whatever trains one config."""
    config_file.define_flag(values)
    flags.DEFINE_string(
        "workdir", None, "Folder of the run, or of the runs' folders, here or in a bucket.", flag_values=values
    )
    text = "Whether this is one of several processes of one job."
    flags.DEFINE_bool("distributed", False, text, flag_values=values)
    text = f"Where numbers go besides metrics.jsonl: {', '.join(writers.WRITERS)}."
    flags.DEFINE_list("writers", [], text, flag_values=values)
    text = "Whether to write a trace of a few steps into profile/ of the workdir."
    flags.DEFINE_bool("profile", False, text, flag_values=values)


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Flags -> config -> runs."""
    check_address("--workdir", values.workdir)
    if values.distributed:
        refuse_bucket("--workdir", values.workdir)  # Orbax's processes write into one folder together
    members = population.members(values.config)
    if values.distributed:
        processes.join()
    with staged(values.workdir) as (workdir, watch), writers.writing_to(values.writers), ExitStack() as stack:
        if values.profile:
            watch = watch._replace(stepped=stack.enter_context(profile.traced(workdir / "profile")))
        results = population.train_population(members, workdir, watch)
    if jax.process_index():
        return  # the first process speaks for all
    if not members[0].values:
        print(terminal.table(results[0], members[0].config.num_draws))
    else:
        print(terminal.population_table([member.values for member in members], results))


COMMAND = command.Command("pini train", __doc__, define_flags, main, required=("config", "workdir"))

if __name__ == "__main__":
    command.run(COMMAND)
