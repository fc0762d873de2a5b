"""Result files to tables and figures: python -m pini_jax.report runs/sweep [runs/other ...] [--output=FOLDER].

Reads every run below the folders, and writes report.md and PNG files to `output` (the first folder's `report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from pini_jax.core import runtime
from pini_jax.core.errors import InputError
from pini_jax.report import collect, tables


def main(argv: Sequence[str]) -> None:
    """Writes report.md and the figures, and prints the tables."""
    runtime.prepare()
    folders = [Path(name) for name in argv[1:]]
    with runtime.errors_as_lines():
        from pini_jax.report import figures  # matplotlib: only what draws waits for it

        if not folders:
            raise InputError("name one folder of runs or more")
        entries = collect.read(folders)
        output = Path(flags.FLAGS.output or folders[0] / "report")
        output.mkdir(parents=True, exist_ok=True)
        text = tables.markdown(entries)
        drawn = figures.draw(entries, output)
        (output / "report.md").write_text(text + "\n\n" + "\n".join(f"![]({name})" for name in drawn) + "\n")
    print(text)
    print(f"\n{output / 'report.md'} with {', '.join(drawn)}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "", "Folder of report.md and the figures.")
    app.run(main)
