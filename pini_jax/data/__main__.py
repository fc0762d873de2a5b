"""Checks a dataset before anything is trained on it.

    pini check --dataset=folder:/data/birds

Prints classes, splits, sizes, modes and duplicates, and everything that is wrong; if anything is, the exit status
is 1. `python -m pini_jax.data check` is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from pini_jax.core import command
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import check, sources


def define_flags(values: flags.FlagValues) -> None:
    """What it looks at."""
    flags.DEFINE_string("dataset", None, f"Its name: {', '.join(sources.SOURCES)}.", flag_values=values)
    text = "Folder of the papers' and of TFDS's datasets; relative paths start there."
    flags.DEFINE_string("data_dir", "", text, flag_values=values)


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Prints the report."""
    if not sources.has_images(values.dataset):
        raise InputError("a pack of features holds no images to look at")
    findings = sources.find_dataset(values.dataset, values.data_dir)
    report = check.look_at_dataset(findings.dataset)
    print(check.text(findings, report))
    if findings.problems or report.unreadable:
        sys.exit(1)


COMMAND = command.Command("pini check", __doc__, define_flags, main, required=("dataset",))

if __name__ == "__main__":
    if "check" in sys.argv:  # the one command of this module
        sys.argv.remove("check")
    command.run(COMMAND)
