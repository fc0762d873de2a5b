"""Makes a finished run again: python -m pini_jax.reproduce runs/digits --workdir=runs/digits_again."""

from __future__ import annotations

from pini_jax.core import stop

if __name__ == "__main__":
    stop.listen()  # before what is slow to import

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from pini_jax.core import runtime
from pini_jax.core.errors import InputError
from pini_jax.runs.reproduce import reproduce


def main(argv: Sequence[str]) -> None:
    """Prints what is the same, and what is not."""
    runtime.prepare()
    with runtime.errors_as_lines():
        if len(argv) != 2:
            raise InputError("name the folder of one finished run")
        again = Path(flags.FLAGS.workdir or f"{argv[1].rstrip('/')}_again")
        print("\n".join(reproduce(Path(argv[1]), again)))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "Folder of the run that is made: by default RUN_again.")
    app.run(main, flags_parser=runtime.parse_flags)
