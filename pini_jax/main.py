"""Trains one run, or many: python -m pini_jax.main --config=configs/digits.py --workdir=runs/digits."""

from __future__ import annotations

from pini_jax.core import stop

if __name__ == "__main__":
    stop.listen()  # before what is slow to import

from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from pini_jax.core import runtime
from pini_jax.report import tables as report
from pini_jax.runs import population

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/, perhaps with :arguments.")
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run's results, or of the runs' folders.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Whether this is one of several processes of one job.")


def main(_) -> None:
    """Flags -> config -> runs."""
    runtime.prepare()
    with runtime.errors_as_lines():
        members = population.members(CONFIG.value)
        if DISTRIBUTED.value:
            runtime.join_processes()
        results = population.train_population(members, Path(WORKDIR.value))
    if jax.process_index():
        return  # the first process speaks for all
    if not members[0].values:
        print(report.table(results[0], members[0].config.num_draws))
    else:
        print(report.population_table([member.values for member in members], results))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    flags.register_validator("workdir", bool, "must name a folder")
    app.run(main, flags_parser=runtime.parse_flags)
