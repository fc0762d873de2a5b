"""Trains and evaluates: python -m pini_jax.main --config=configs/digits.py --workdir=runs/digits."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from pini_jax import config as configs
from pini_jax import report, train
from pini_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/, perhaps with :arguments.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run's checkpoints and results.")


def set_up_logging() -> None:
    """Our own messages as plain lines; of the libraries, warnings only."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    ours = logging.getLogger("pini_jax")
    ours.addHandler(logging.StreamHandler())
    ours.setLevel(logging.INFO)
    ours.propagate = False


def main(_) -> None:
    """Flags -> config -> run; what the user can mend is one line, without a traceback."""
    set_up_logging()
    train.prepare()
    try:
        config = configs.resolve(CONFIG.value)
        result = train.train_and_evaluate(config, Path(WORKDIR.value or ""))
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    print(report.table(result, config.num_draws))


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with an unknown config key as one line."""
    try:
        return app.parse_flags_with_usage(argv)
    except AttributeError as error:
        # its text is the repr of a message of two lines
        sys.exit("error: config has no key " + ": ".join(str(error.args[0]).strip('"').split("\\n")))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
