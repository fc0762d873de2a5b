"""Repeats a finished run and compares it with the original.

    pini reproduce runs/digits --workdir=runs/digits_again

The config is that of the run's folder; whatever has changed since (data, weights, versions, the commit) is named.
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command
from pini_jax.core.errors import UsageError
from pini_jax.runs.reproduce import reproduce


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flag for the new folder."""
    flags.DEFINE_string("workdir", "", "Folder of the new run; RUN_again if there is none.", flag_values=values)


def main(values: flags.FlagValues, runs: Sequence[str]) -> None:
    """Prints what is the same and what is not."""
    if len(runs) != 1:
        raise UsageError("name the folder of one finished run")
    run = Path(runs[0])
    again = Path(values.workdir) if values.workdir else run.with_name(f"{run.name}_again")
    print("\n".join(reproduce(run, again)))


COMMAND = command.Command("pini reproduce", __doc__, define_flags, main, argument="RUN")

if __name__ == "__main__":
    command.run(COMMAND)
