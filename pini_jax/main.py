"""Trains and evaluates: python -m pini_jax.main --config=configs/digits.py --workdir=runs/digits."""

from __future__ import annotations

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from pini_jax import config as configs
from pini_jax import report, runtime, train

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/, perhaps with :arguments.")
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run's checkpoints and results.")


def main(_) -> None:
    """Flags -> config -> run."""
    runtime.prepare()
    with runtime.errors_as_lines():
        config = configs.resolve(CONFIG.value)
        result = train.train_and_evaluate(config, Path(WORKDIR.value))
    print(report.table(result, config.num_draws))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    flags.register_validator("workdir", bool, "must name a folder")
    app.run(main, flags_parser=runtime.parse_flags)
