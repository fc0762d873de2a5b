"""Looks at a dataset: python -m pini_jax.data check --dataset=folder:/data/birds.

Prints classes, splits, sizes, modes and duplicates, and everything that is wrong; if anything is, exits with
status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags

from pini_jax.core import runtime
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import check, sources


def main(argv: Sequence[str]) -> None:
    """Prints the report."""
    runtime.prepare()
    with runtime.errors_as_lines():
        if list(argv[1:]) != ["check"]:
            raise InputError("the one command is: python -m pini_jax.data check --dataset=NAME")
        if not sources.has_images(flags.FLAGS.dataset):
            raise InputError("a pack of features holds no images to look at")
        found = sources.find(flags.FLAGS.dataset, flags.FLAGS.data_dir)
        report = check.check(found.dataset)
        print(check.text(found, report))
    sys.exit(1 if found.problems or report.unreadable else 0)


if __name__ == "__main__":
    flags.DEFINE_string("dataset", None, f"Its name: {', '.join(sources.SOURCES)}.")
    flags.DEFINE_string(
        "data_dir", "", "Folder of the papers' and of TFDS's datasets; relative paths start there."
    )
    flags.mark_flag_as_required("dataset")
    app.run(main, flags_parser=runtime.parse_flags)
