"""The tables of docs/ablation.md, from the finished runs of `configs/ablation.py`.

    pini train --config=ablation:base=features,path=dtd_vitb32.npz --workdir=runs/ablation/dtd
    pini train --config=ablation --workdir=runs/ablation/digits
    python -m benchmarks.ablation runs/ablation/dtd runs/ablation/digits --figure=ablation.png

For each dataset one row for every variant: test accuracy with the mean of the noise and with averaged draws, the
NLL of both, and what draws tell beyond their mean (`metrics.gains_of_draws`), as they come and calibrated, in the
mean over seeds. Errors are those over test images, the same for all seeds. A second table sets what was learned
with noise beside the mean that was learned without any, by all generators.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.doubt import table
from pini_jax.core import runtime
from pini_jax.report import collect, style
from pini_jax.report.collect import Entry

ALONE = ", mean_only"  # ends the name of a variant without draws
Groups = Mapping[str, Mapping[int, Sequence[Entry]]]  # by variant and shots
Form = Callable[[Sequence[Entry]], str]  # of the runs of all seeds


def grouped(entries: Sequence[Entry]) -> Groups:
    """In the order of the config."""
    groups: dict[str, dict[int, list[Entry]]] = {}
    for entry in sorted(entries, key=lambda entry: entry.result["shots"]):
        groups.setdefault(entry.label, {}).setdefault(entry.result["shots"], []).append(entry)
    return {label: groups[label] for label in collect.by_label(entries)}


def metric(entries: Sequence[Entry], mode: str, name: str) -> float:
    """In the mean over seeds."""
    return float(np.mean([entry.result["test"][mode][name] for entry in entries]))


def gain(entries: Sequence[Entry], name: str) -> tuple[float, float]:
    """In thousandths of a nat, in the mean over seeds, with its standard error over images."""
    found = [entry.result["draws"][name] for entry in entries]
    nats, error = (1e3 * float(np.mean([x[key] for x in found])) for key in ("nats", "standard_error"))
    return nats, error


def cell(by_shots: Mapping[int, Sequence[Entry]], shots: Sequence[int], form: Form) -> str:
    """Of every number of shots, and a dash where no run has finished."""
    return " / ".join(form(by_shots[k]) if k in by_shots else "-" for k in shots)


def shots_of(groups: Groups) -> list[int]:
    """All that some variant has."""
    return sorted({k for by_shots in groups.values() for k in by_shots})


def title(dataset: str, shots: Sequence[int]) -> str:
    """Of the first column: what each cell has."""
    return f"{dataset}, {' / '.join(map(str, shots))} shots"


def percent(mode: str) -> Form:
    """Accuracy in a mode."""
    return lambda entries: f"{100 * metric(entries, mode, 'accuracy'):.1f}"


def nll(mode: str) -> Form:
    """In nats, in a mode."""
    return lambda entries: f"{metric(entries, mode, 'nll'):.2f}"


def draws(name: str) -> Form:
    """A gain of draws with its error."""
    return lambda entries: "{:+.0f} ± {:.0f}".format(*gain(entries, name))


def variants(dataset: str, groups: Groups) -> str:
    """All of them, but for means that were learned without draws; each cell has all numbers of shots."""
    columns = {
        "%, `mean`": percent("mean"),
        "%, `marginal`": percent("marginal"),
        "NLL, `mean`": nll("mean"),
        "NLL, `marginal`": nll("marginal"),
        "draws, mnat": draws("averaged"),
        "calibrated, mnat": draws("calibrated"),
    }
    shots = shots_of(groups)
    rows = [
        [f"`{label}`", *(cell(by_shots, shots, form) for form in columns.values())]
        for label, by_shots in groups.items()
        if not label.endswith(ALONE)
    ]
    return table([title(dataset, shots), *columns], rows)


def with_and_without(dataset: str, groups: Groups) -> str:
    """A mean that was learned under draws of noise, beside one that was not: what either predicts without any."""
    shots = shots_of(groups)
    rows = [
        [f"`{x}`", *(cell(groups[of], shots, form("mean")) for form in (percent, nll) for of in (x, x + ALONE))]
        for x in groups
        if x + ALONE in groups
    ]
    columns = "%, noise", "%, no noise", "NLL, noise", "NLL, no noise"
    return table([title(dataset, shots), *columns], rows)


def draw(datasets: Mapping[str, Groups]) -> plt.Figure:
    """What noise is worth to the learned mean, and draws to their mean once both are calibrated, by generators."""
    pairs = {name: [x for x in groups if x + ALONE in groups] for name, groups in datasets.items()}
    sizes = [*map(len, pairs.values())]
    figure, grid = plt.subplots(
        *(len(pairs), 2),
        figsize=(2 * style.COLUMN, 0.17 * sum(sizes) + 0.8 * len(sizes)),
        gridspec_kw={"height_ratios": sizes},
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for (name, labels), (accuracy, told) in zip(pairs.items(), grid, strict=True):
        groups = datasets[name]
        for i, (k, look) in enumerate(zip(shots_of(groups), style.line_styles(), strict=False)):
            look |= {"linestyle": "", "label": f"{k} shot{'s' * (k > 1)}"}
            rows = [row for row, x in enumerate(labels) if k in groups[x] and k in groups[x + ALONE]]
            found = [(groups[labels[row]][k], groups[labels[row] + ALONE][k]) for row in rows]
            places = np.array(rows) + 0.25 * (i - 1)
            more = [metric(noise, "mean", "accuracy") - metric(none, "mean", "accuracy") for noise, none in found]
            accuracy.plot(100 * np.array(more), places, **look)
            gains = np.array([gain(noise, "calibrated") for noise, _ in found]).reshape(-1, 2)
            told.errorbar(gains[:, 0], places, xerr=gains[:, 1], elinewidth=0.7, **look)
        for axes in (accuracy, told):
            axes.axvline(0, color="black", linestyle=":", linewidth=0.8)
            axes.set_ylim(len(labels) - 0.5, -0.5)
        accuracy.set_yticks(range(len(labels)), labels)
        accuracy.set_title(name, loc="left")
        accuracy.set_xlabel("accuracy of the mean, points:\nlearned with noise − without")
        told.set_xlabel("−NLL, calibrated, thousandths of a nat:\naveraged draws − their mean")
        told.legend(fontsize=6)
    return figure


def main(folders: Sequence[Path], figure: Path | None) -> None:
    """Prints both tables of every dataset, and draws the figure."""
    runs = [collect.read_runs([folder]) for folder in folders]
    datasets = {Path(found[0].result["dataset"]).stem: grouped(found) for found in runs}
    for dataset, groups in datasets.items():
        print(variants(dataset, groups), with_and_without(dataset, groups), sep="\n")
    if figure:
        with style.styled():
            draw(datasets).savefig(figure, dpi=style.DOTS // 2)


if __name__ == "__main__":
    runtime.prepare()
    parser = argparse.ArgumentParser(description="The tables of docs/ablation.md.")
    parser.add_argument("folders", nargs="+", type=Path, help="of one dataset each")
    parser.add_argument("--figure", type=Path, help="a file to draw it to")
    given = parser.parse_args()
    main(given.folders, given.figure)
