"""Trains and evaluates: python -m pini_jax.main --config=configs/digits.py --workdir=runs/digits."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from pini_jax import config as configs
from pini_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/, with :arguments.", lock_config=False)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run's checkpoints and results.")


def main(_) -> None:
    """Flags -> config -> run."""
    from pini_jax import report, train  # after the flags, so that a typing error shows at once

    train.prepare()
    config = configs.resolve(CONFIG.value)
    result = train.train_and_evaluate(config, Path(WORKDIR.value))
    print(report.table(result, config.num_draws))


def run() -> None:
    """`main`, with what the user can mend as one line."""
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    try:
        app.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
