"""Figures of many runs on one dataset with one CLIP.

| file          | what                                                                                  |
|---------------|---------------------------------------------------------------------------------------|
| `accuracy`    | test accuracy against shots, with the 95 % confidence band of the mean over seeds     |
| `differences` | differences from zero-shot CLIP, with intervals; which methods cannot be told apart   |
| `reliability` | accuracy against confidence; the area of a dot is the share of predictions            |
| `information` | usable information, draws against their mean, and H(T) - H(T given E)                 |
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scipy  # which loads its parts at their first use: half a second
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pini_jax.evaluate.metrics import Reliability, calibration_error
from pini_jax.methods import registry
from pini_jax.report import statistics
from pini_jax.report.collect import Entry, by_label, by_plain_label, by_shots
from pini_jax.report.outcomes import PLAIN, Comparison, differ
from pini_jax.report.style import COLOURS, COLUMN, GREY, Captioned, line_styles, spaced, wrapped

TOGETHER = 6  # lines that one panel holds; of more, each has a panel of its own
PANELS = 3  # in a row
Curve = dict[int, list[float]]  # accuracies in % by shots


def draw_figures(entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> list[Captioned]:
    """All figures that the runs have something for."""
    drawn = [
        accuracy_figure(entries),
        differences_figure(entries, comparisons),
        reliability_figure(entries),
        information_figure(entries),
    ]
    return [figure for figure in drawn if figure is not None]


def ordered(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Runs by label, the method with the highest mean accuracy first, and those that lack some shots last."""
    groups = by_label(entries)
    whole = at_all_shots(groups)
    return dict(sorted(groups.items(), key=lambda item: (item[0] not in whole, -mean_accuracy(item[1]))))


def at_all_shots(groups: Mapping[str, Sequence[Entry]]) -> list[str]:
    """The methods with runs at all shots at which any has one: means over shots of others are not theirs."""
    shots = {label: {entry.result["shots"] for entry in group} for label, group in groups.items()}
    return [label for label, own in shots.items() if own == set().union(*shots.values())]


def mean_accuracy(entries: Sequence[Entry]) -> float:
    """The mean accuracy over all runs of a method, weighting every number of shots equally."""
    return float(np.mean([np.mean(x) for x in by_shots(entries, "test", "mean", "accuracy").values()]))


def _curve(entries: Sequence[Entry], *path: str) -> Curve:
    return {k: [100 * x for x in values] for k, values in by_shots(entries, *path).items()}


# ------------------------------------------------------------------------------------------------ accuracy


def accuracy_figure(entries: Sequence[Entry]) -> Captioned | None:
    """mean +- t_{0.975, n-1} s / sqrt(n) over n seeds."""
    shots = sorted({entry.result["shots"] for entry in entries})
    if len(shots) < 2:
        return None
    curves = {label: _curve(group, "test", "mean", "accuracy") for label, group in ordered(entries).items()}
    plain = {
        label: float(np.mean(100 * np.array([x.result["zero_shot"]["accuracy"] for x in group])))
        for label, group in by_plain_label(entries).items()
    }
    figure = (_together if len(curves) <= TOGETHER else _apart)(curves, plain, shots)
    most = {label: np.mean(curve[shots[-1]]) for label, curve in curves.items() if shots[-1] in curve}
    best = max(most, key=lambda label: most[label])
    return Captioned(
        "accuracy",
        "Accuracy against shots",
        "Test accuracy with mean noise, and the 95 % confidence band of its mean over seeds (Student's t, sample "
        "standard deviation). Dotted: plain CLIP. Methods are in the order of their mean accuracy, last those "
        "that lack some shots."
        + ("" if len(curves) <= TOGETHER else " Each panel shows one method before all others in grey."),
        f"Test accuracy of {_count(len(curves), 'method')} at {', '.join(map(str, shots))} shots; the highest at "
        f"{shots[-1]} shots is {best} with {most[best]:.1f} %; plain CLIP has {min(plain.values()):.1f} %.",
        figure,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _together(curves: Mapping[str, Curve], plain: Mapping[str, float], shots: Sequence[int]) -> plt.Figure:
    """One panel, with the names beside the ends of the lines."""
    figure, axes = plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")
    ends: dict[str, tuple[float, str]] = {}
    for (label, curve), look in zip(curves.items(), line_styles(), strict=False):
        _line(axes, curve, look)
        ends[label] = float(np.mean(curve[max(curve)])), str(look["color"])
    for label, height in plain.items():
        axes.axhline(height, color="black", linestyle=":", linewidth=0.8)
        ends[label] = height, "black"
    _axes_of_shots(axes, shots)
    axes.set(xlabel="shots per class", ylabel="test accuracy, %")
    low, high = axes.get_ylim()
    names = [wrapped(label) for label in ends]
    rows = max(name.count("\n") for name in names) + 1
    places = spaced([height for height, _ in ends.values()], 0.062 * rows * (high - low))
    for name, (_, colour), place in zip(names, ends.values(), places, strict=True):
        axes.annotate(name, (1.02, place), xycoords=("axes fraction", "data"), color=colour, va="center")
    return figure


def _panels(number: int, height: float, beside: float) -> tuple[plt.Figure, np.ndarray]:
    """So many panels in rows; `height` of each row and what stands `beside` them in inches."""
    rows = -(-number // PANELS)
    size = (COLUMN, height * rows + beside)
    figure, grid = plt.subplots(
        *(rows, PANELS), sharex=True, sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    for axes in grid.flat[number:]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, number - PANELS) : number]:
        axes.tick_params(labelbottom=True)
    return figure, grid


def _apart(curves: Mapping[str, Curve], plain: Mapping[str, float], shots: Sequence[int]) -> plt.Figure:
    """A panel for every method, three beside each other, before all others in grey."""
    figure, grid = _panels(len(curves), 1.15, 0.3)
    for axes, (label, curve) in zip(grid.flat, curves.items(), strict=False):
        for other in curves.values():
            axes.plot(list(other), [np.mean(x) for x in other.values()], color="#d9d9d9", linewidth=0.6, zorder=1)
        for height in plain.values():
            axes.axhline(height, color="black", linestyle=":", linewidth=0.8)
        _line(axes, curve, {"color": COLOURS[0], "marker": "o"})
        axes.set_title(wrapped(label, 18), fontsize=6, pad=2)
        _axes_of_shots(axes, shots)
    figure.supxlabel("shots per class", fontsize=7)
    figure.supylabel("test accuracy, %", fontsize=7)
    return figure


def _line(axes: plt.Axes, curve: Curve, look: Mapping[str, Any]) -> None:
    mean = np.array([np.mean(x) for x in curve.values()])
    half = np.array([half_width(x) for x in curve.values()])
    axes.plot(list(curve), mean, **look, zorder=3)
    low, high = np.clip([mean - half, mean + half], 0, 100)  # with two seeds the band is wider than all there is
    axes.fill_between(list(curve), low, high, color=look["color"], alpha=0.15, linewidth=0)


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of a mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    return float(scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.spread(values) / np.sqrt(len(values)))


def _axes_of_shots(axes: plt.Axes, shots: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.minorticks_off()


# ------------------------------------------------------------------------------------------------ rows


def _rows(labels: Sequence[str], panels: int) -> tuple[plt.Figure, list[plt.Axes]]:
    """Panels side by side with a row for every method, the first on top."""
    lines = [wrapped(label, 30).count("\n") + 1 for label in labels]
    row = max([0.17, *(0.06 * (above + below) for above, below in itertools.pairwise(lines))])
    height = row * len(labels) + 0.45 + 0.1 * panels
    figure, grid = plt.subplots(
        1, panels, figsize=(COLUMN, height), sharey=True, squeeze=False, layout="constrained"
    )
    for axes in grid[0]:
        axes.xaxis.set_major_locator(MaxNLocator(7 // panels))
        axes.axvline(0, color="black", linestyle=":", linewidth=0.8)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
    grid[0, 0].set_yticks(range(len(labels)), [wrapped(label, 30) for label in labels])
    return figure, list(grid[0])


def differences_figure(entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> Captioned | None:
    """A forest plot against zero-shot CLIP, with bars beside methods that cannot be told apart."""
    methods = list(ordered(entries))
    against = {x.first: x for x in comparisons if x.second == PLAIN and not np.isnan(x.difference.p)}
    if not against or against.keys() != set(methods):
        return None
    figure, (axes,) = _rows(methods, 1)
    for row, method in enumerate(methods):
        found = against[method].difference
        sure = against[method].adjusted < statistics.LEVEL
        axes.plot([100 * found.low, 100 * found.high], [row, row], color=COLOURS[0], linewidth=1.2)
        axes.plot([100 * found.mean], [row], "o", color=COLOURS[0], mfc=COLOURS[0] if sure else "white", zorder=3)
    axes.set_xlabel("difference in accuracy to plain CLIP, points")
    stretches = statistics.alike(differ(methods, comparisons))
    for number, (first, last) in enumerate(stretches):
        x = 1.03 + 0.035 * number
        axes.plot(
            *([x, x], [first - 0.25, last + 0.25]),
            transform=axes.get_yaxis_transform(),
            clip_on=False,
            color="black",
            linewidth=1.8,
        )
    fewest, most = (limit(x.seeds for x in against.values()) for limit in (min, max))
    unit = _count(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    if (images := min(x.images for x in against.values())) > 1:
        unit += f" and {images:,} test images"
    largest = max(methods, key=lambda method: against[method].difference.mean)
    ahead = sum(x.adjusted < statistics.LEVEL and x.difference.mean > 0 for x in against.values())
    return Captioned(
        "differences",
        "Which methods differ",
        "Mean difference in test accuracy to plain CLIP over all shots, with 95 % intervals by paired bootstrap "
        f"over {unit}. Filled: the difference remains after Holm's correction for {len(comparisons)} comparisons. "
        "Black bars join neighbours of which no two are told apart.",
        f"Above plain CLIP beyond chance: {ahead} of {_count(len(methods), 'method')}. The largest difference is "
        f"{100 * against[largest].difference.mean:+.1f} points, of {largest}.",
        figure,
    )


def information_figure(entries: Sequence[Entry]) -> Captioned | None:
    """A dot for every run, and a stroke at their mean."""
    kinds = {
        "usable information": ("information", "usable_information"),
        "draws − their mean": ("draws", "averaged", "nats"),
        "H(T) − H(T|E)": ("information", "mutual_information"),
    }
    groups = ordered(entries)
    figure, panels = _rows(list(groups), len(kinds))
    shots = sorted({entry.result["shots"] for entry in entries})
    for axes, (title, path) in zip(panels, kinds.items(), strict=True):
        for row, group in enumerate(groups.values()):
            values = by_shots(group, *path)
            for k, found in values.items():
                size = 3 + 12 * (shots.index(k) + 1) / len(shots)
                axes.scatter(found, [row] * len(found), s=size, color=COLOURS[0], alpha=0.45, linewidth=0)
            if values:  # earlier versions measured less
                mean = np.mean([np.mean(x) for x in values.values()])
                axes.plot([mean], [row], "|", color="black", markersize=7)
        axes.set_xlabel(f"{wrapped(title, 12)},\nnats")
    useful = {label: _mean_information(group) for label, group in groups.items()}
    best = max(useful, key=lambda label: useful[label])
    return Captioned(
        "information",
        "Information",
        "Left: how much less surprised the method is by the right answer than plain CLIP, on the mean over images "
        "(usable information). Middle: how much less surprised averaged draws of noise are than its mean alone. "
        "Right: how much surer the method is than plain CLIP believes itself to be; below 0 even where accuracy "
        "rises, if plain CLIP is overconfident. Dots are runs, larger with more shots; strokes are "
        "means over shots. Above 0 the noise is positive-incentive.",
        f"The most usable information has {best}: {useful[best]:+.2f} nats in the mean.",
        figure,
    )


def _mean_information(entries: Sequence[Entry]) -> float:
    return float(np.mean([np.mean(x) for x in by_shots(entries, "information", "usable_information").values()]))


# ------------------------------------------------------------------------------------------------ reliability


def reliability_figure(entries: Sequence[Entry]) -> Captioned:
    """A panel for zero-shot CLIP and for every method, over all its runs with the most shots."""
    shots = max(entry.result["shots"] for entry in entries)
    chosen = [entry for entry in entries if entry.result["shots"] == shots]
    panels = {PLAIN: {"zero_shot": pooled(chosen, "zero_shot")}}
    for label, group in ordered(chosen).items():
        modes = ("mean", "marginal") if registry.makes_noise(group[0].result["method"]) else ("mean",)
        panels[label] = {mode: pooled(group, mode) for mode in modes}
    figure, grid = _panels(len(panels), 1.3, 0.4)
    for axes, (label, modes_of_label) in zip(grid.flat, panels.items(), strict=False):
        for bins, look in zip(modes_of_label.values(), line_styles(), strict=False):
            reliability_line(axes, bins, look)
        errors = ", ".join(f"{calibration_error(bins):.3f}" for bins in modes_of_label.values())
        axes.set_title(f"{wrapped(label, 18)}\nECE {errors}", fontsize=6, pad=2)
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
    if any(len(modes) > 1 for modes in panels.values()):
        handles = [
            Line2D([], [], color=x["color"], linestyle=x["linestyle"])
            for x, _ in zip(line_styles(), "12", strict=False)
        ]
        figure.legend(handles, ["mean", "marginal"], loc="outside upper center", ncols=2)
    figure.supxlabel("confidence", fontsize=7)
    figure.supylabel("accuracy", fontsize=7)
    mean_errors = {label: calibration_error(modes["mean"]) for label, modes in panels.items() if "mean" in modes}
    worst = max(mean_errors, key=lambda label: mean_errors[label])
    return Captioned(
        "reliability",
        f"Reliability at {shots} shots",
        "Accuracy against confidence, of all seeds together; the area of a dot is the share of predictions. On "
        "the dotted line, what is claimed holds; below it, the method is overconfident. ECE is the mean distance "
        "from it.",
        f"The expected calibration error is largest for {worst}: {mean_errors[worst]:.3f}; plain CLIP has "
        f"{calibration_error(panels[PLAIN]['zero_shot']):.3f}.",
        figure,
    )


def reliability_line(axes: plt.Axes, bins: Reliability, look: Mapping[str, Any]) -> None:
    """Draws one reliability diagram."""
    size, confidence, correct = map(np.asarray, bins)
    used = size > 0
    x, y = confidence[used] / size[used], correct[used] / size[used]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.8, zorder=0)
    axes.plot(x, y, linewidth=0.8, color=look["color"], linestyle=look["linestyle"])
    axes.scatter(x, y, s=2 + 60 * size[used] / size.sum(), color=look["color"], alpha=0.6, linewidth=0)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def pooled(entries: Sequence[Entry], name: str) -> Reliability:
    """The bins of several runs together."""
    bins = [entry.result["reliability"][name] for entry in entries]
    return Reliability(*(np.array([x[key] for x in bins], float).sum(0).tolist() for key in Reliability._fields))
