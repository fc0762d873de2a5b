"""Tests a finished run, on its own data or on other data, without training.

    pini evaluate --workdir=runs/digits
    pini evaluate --workdir=runs/pets --dataset=folder:photos

Classifies the test images among the classes of the run, prints what is measured, and writes predictions.parquet
and evaluation.json to a folder of the dataset's name in evaluations/ of the workdir. Images of classes that the
run does not know, by their names, are used to measure how well it tells "none of these".
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

from collections.abc import Sequence

from absl import flags

from pini_jax.core import command
from pini_jax.core.copies import join_place
from pini_jax.core.paths import check_address
from pini_jax.evaluate import rejection
from pini_jax.runs import evaluation
from pini_jax.runs.staged import staged

COLUMNS = {"accuracy": ".1%", "nll": ".3f", "ece": ".3f", "calibrated_nll": ".3f", "calibrated_ece": ".3f"}


def define_flags(values: flags.FlagValues) -> None:
    """What is loaded, and what it is tested on."""
    flags.DEFINE_string("workdir", None, "Folder of a finished run, here or in a bucket.", flag_values=values)
    flags.DEFINE_string("dataset", "", "As in a config, if not the run's own.", flag_values=values)
    flags.DEFINE_string("clip", "", "Where the CLIP is now, if not where it was.", flag_values=values)


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Prints a table of metrics, and one of rejection."""
    for name in ("workdir", "dataset", "clip"):
        check_address(f"--{name}", getattr(values, name))
    with staged(values.workdir) as (workdir, watch):
        place, found = evaluation.evaluate(workdir, values.dataset, values.clip)
    print(f"{found['images']} images, {found['unknown']} of them of classes that the run does not know")
    if "test" in found:
        print(f"{'':12}" + "".join(f"{name:>16}" for name in COLUMNS))
        for mode, row in ({"zero_shot": found["zero_shot"]} | found["test"]).items():
            print(f"{mode:12}" + "".join(f"{row[name]:>16{form}}" for name, form in COLUMNS.items()))
    for mode, row in found.get("rejection", {}).items():
        best = row["scores"][rejection.DEFAULT]
        print(f"{mode}: {row['rejected']:.1%} of the unknown rejected; AUROC {best['auroc']:.3f}")
    print(f"written to {join_place(values.workdir, str(place.relative_to(workdir)))}")


COMMAND = command.Command("pini evaluate", __doc__, define_flags, main, required=("workdir",))

if __name__ == "__main__":
    command.run(COMMAND)
