"""Makes tables and figures of results.

    pini report runs/sweep
    pini report runs/sweep runs/other --output=report

Reads every run below the folders, prints the tables, and writes them and the figures to report.md and PNG files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command, extras
from pini_jax.report import collect, tables


def define_flags(values: flags.FlagValues) -> None:
    """Where it goes."""
    text = "Folder of report.md and the figures; the first folder's `report` if there is none."
    flags.DEFINE_string("output", "", text, flag_values=values)


def main(values: flags.FlagValues, folders: Sequence[str]) -> None:
    """Writes report.md and the figures, and prints the tables."""
    extras.require("matplotlib", "figures")
    from pini_jax.report import figures  # matplotlib: only what draws waits for it

    entries = collect.read_runs([Path(name) for name in folders])
    output = Path(values.output or Path(folders[0], "report"))
    output.mkdir(parents=True, exist_ok=True)
    text = tables.markdown(entries)
    drawn = figures.draw(entries, output)
    (output / "report.md").write_text(text + "\n\n" + "\n".join(f"![]({name})" for name in drawn) + "\n")
    print(text)
    print(f"\n{output / 'report.md'} with {', '.join(drawn)}")


COMMAND = command.Command("pini report", __doc__, define_flags, main, argument="FOLDER")

if __name__ == "__main__":
    command.run(COMMAND)
