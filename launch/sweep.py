"""Runs one config over shots and seeds, and prints mean and spread of the test accuracy.

    python -m launch.sweep --config=configs/digits.py --workdir=runs/sweep

Every member is an ordinary run in a folder of its own, so a sweep that was cut off goes on where it was.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from pini_jax import config as configs
from pini_jax import report, runtime, train

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/, perhaps with :arguments.")
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the members' folders.")
SHOTS = flags.DEFINE_list("shots", ["1", "2", "4", "8", "16"], "Images per class.")
SEEDS = flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds.")


def member(config: ml_collections.ConfigDict, shots: int, seed: int) -> configs.Config:
    """The config of one member."""
    return configs.resolve(config.to_dict() | {"shots": shots, "seed": seed})


def main(_) -> None:
    """Runs every member that is not finished, then prints the table."""
    runtime.prepare()
    folder = Path(WORKDIR.value)
    results = []
    with runtime.errors_as_lines():
        for shots, seed in itertools.product(map(int, SHOTS.value), map(int, SEEDS.value)):
            run = member(CONFIG.value, shots, seed)
            results.append(train.train_and_evaluate(run, folder / f"shots_{shots}-seed_{seed}"))
    print(report.sweep_table(results))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    for name in ("shots", "seeds"):
        flags.register_validator(name, lambda x: x and all(n.isdigit() for n in x), "must be whole numbers")
    flags.register_validator("workdir", bool, "must name a folder")
    app.run(main, flags_parser=runtime.parse_flags)
