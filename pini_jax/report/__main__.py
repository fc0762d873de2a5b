"""Makes a page, figures and tables about results.

    pini report runs/sweep
    pini report runs/sweep runs/other --output=report

Reads every run below the folders, and writes report.html, which holds all of it in one file, and the same as
report.md, as figures (PNG and PDF) and as tables (CSV, LaTeX and Parquet). Of a single run it shows what it got
wrong; of several, how methods differ; of a sweep that is not finished, how far it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command, copies, extras, paths
from pini_jax.core.bucket import is_url
from pini_jax.core.errors import InputError, UsageError
from pini_jax.report import collect
from pini_jax.report.unfinished import unfinished_runs


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flag for the output folder."""
    text = "Folder of the report; the first folder's `report` if there is none."
    flags.DEFINE_string("output", "", text, flag_values=values)


def main(values: flags.FlagValues, folders: Sequence[str]) -> None:
    """Writes the report, and prints where it is and what it says."""
    for package in ("pandas", "jinja2", "matplotlib"):
        extras.require(package, "report")
    from pini_jax.report import many_runs, one_run, page  # pandas, matplotlib: only what reports waits for them

    for folder in folders:
        paths.check_address("FOLDER", folder)
    if is_url(folders[0]) and not values.output:
        raise UsageError("--output=FOLDER must be given where runs are in a bucket")
    paths.refuse_bucket("--output", values.output)
    tops = [readable(folder) for folder in folders]
    collected, unfinished = collect.collect(tops), unfinished_runs(tops)
    if not collected.entries and not unfinished:
        raise InputError(f"there is no run in {', '.join(folders)}: a run writes config.json first")
    output = Path(values.output or Path(folders[0], "report"))
    output.mkdir(parents=True, exist_ok=True)
    if len(collected.entries) == 1 and not unfinished:
        whole, markdown = one_run.report_run(collected.entries[0], output)
    else:
        whole, markdown = many_runs.report_runs(collected, unfinished, output)
    paths.write_file(output / "report.md", markdown)
    paths.write_file(output / "report.html", page.render(whole))
    print(markdown)
    print(f"{output / 'report.html'}: {whole.lead}")


def readable(folder: str) -> Path:
    """The folder itself, or a copy of what a report reads of one in a bucket."""
    if not is_url(folder):
        return Path(folder)
    return copies.fetch_copy(folder, lambda key: not key.startswith(".") and "checkpoints/" not in key)


COMMAND = command.Command("pini report", __doc__, define_flags, main, argument="FOLDER")

if __name__ == "__main__":
    command.run(COMMAND)
