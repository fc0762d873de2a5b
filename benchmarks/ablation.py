"""The tables of docs/ablation.md, from the finished runs of `configs/ablation.py`.

    pini train --config=ablation:base=features,path=dtd_vitb32.npz --workdir=runs/ablation/dtd
    pini train --config=ablation --workdir=runs/ablation/digits
    python -m benchmarks.ablation runs/ablation

For each dataset one row for every variant: test accuracy with the mean of the noise and with averaged draws, the
NLL of both, and what draws tell beyond their mean (`metrics.gains_of_draws`), as they come and calibrated, in the
mean over seeds. Errors are those over test images, the same for all seeds. A second table sets what was learned
with noise beside the mean that was learned without any, by all generators.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.doubt import table
from pini_jax.core import runtime
from pini_jax.report import collect
from pini_jax.report.collect import Entry

ALONE = ", mean_only"  # ends the name of a variant without draws
Groups = Mapping[str, Mapping[int, Sequence[Entry]]]  # by variant and shots


def grouped(entries: Sequence[Entry]) -> Groups:
    """In the order of the config."""
    groups: dict[str, dict[int, list[Entry]]] = {}
    for entry in sorted(entries, key=lambda entry: entry.result["shots"]):
        groups.setdefault(entry.label, {}).setdefault(entry.result["shots"], []).append(entry)
    return {label: groups[label] for label in collect.by_label(entries)}


def metric(entries: Sequence[Entry], mode: str, name: str) -> float:
    """In the mean over seeds."""
    return float(np.mean([entry.result["test"][mode][name] for entry in entries]))


def gain(entries: Sequence[Entry], name: str) -> str:
    """In thousandths of a nat, with its standard error over images."""
    found = [entry.result["draws"][name] for entry in entries]
    nats, error = (np.mean([x[key] for x in found]) for key in ("nats", "standard_error"))
    return f"{1e3 * nats:+.0f} ± {1e3 * error:.0f}"


def variants(dataset: str, groups: Groups) -> str:
    """All of them, but for means that were learned without draws; each cell has all numbers of shots."""
    rows = []
    for label, by_shots in groups.items():
        if label.endswith(ALONE):
            continue
        cells = [
            [f"{100 * metric(entries, mode, 'accuracy'):.1f}" for entries in by_shots.values()]
            for mode in ("mean", "marginal")
        ]
        cells += [
            [f"{metric(entries, mode, 'nll'):.2f}" for entries in by_shots.values()]
            for mode in ("mean", "marginal")
        ]
        cells += [[gain(entries, name) for entries in by_shots.values()] for name in ("averaged", "calibrated")]
        rows.append([f"`{label}`", *(" / ".join(cell) for cell in cells)])
    shots = " / ".join(map(str, next(iter(groups.values()))))
    modes = "%, `mean`", "%, `marginal`", "NLL, `mean`", "NLL, `marginal`", "draws, mnat", "calibrated, mnat"
    return table([f"{dataset}, {shots} shots", *modes], rows)


def with_and_without(dataset: str, groups: Groups) -> str:
    """A mean that was learned under draws of noise, beside one that was not: what either predicts without any."""
    rows = []
    for label in groups:
        if label + ALONE not in groups:
            continue
        cells = []
        for name, scale, form in (("accuracy", 100, ".1f"), ("nll", 1, ".2f")):
            for with_label in (label, label + ALONE):
                found = groups[with_label].values()
                cells.append(" / ".join(f"{scale * metric(entries, 'mean', name):{form}}" for entries in found))
        rows.append([f"`{label}`", *cells])
    shots = " / ".join(map(str, next(iter(groups.values()))))
    return table([f"{dataset}, {shots} shots", "%, noise", "%, no noise", "NLL, noise", "NLL, no noise"], rows)


def main(folders: Sequence[Path]) -> None:
    """Prints both tables of every dataset."""
    entries = sorted(collect.read_runs(folders), key=lambda entry: entry.result["dataset"])
    for dataset, found in itertools.groupby(entries, key=lambda entry: entry.result["dataset"]):
        groups = grouped(list(found))
        print(variants(Path(dataset).stem, groups), with_and_without(Path(dataset).stem, groups), sep="\n")


if __name__ == "__main__":
    runtime.prepare()
    parser = argparse.ArgumentParser(description="The tables of docs/ablation.md.")
    parser.add_argument("folders", nargs="+", type=Path)
    main(parser.parse_args().folders)
