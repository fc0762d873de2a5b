"""Figures of one run: what it takes for what, how sure it is, and how it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Int

from pini_jax.evaluate.metrics import calibration_error
from pini_jax.report.collect import Entry
from pini_jax.report.figures import pooled, reliability_line
from pini_jax.report.style import COLOURS, COLUMN, Captioned, line_styles
from pini_jax.train.recorder import METRICS

NAMED = 30  # classes whose names stand beside the matrix


def confusion_figure(counts: Int[np.ndarray, "c c"], names: Sequence[str]) -> Captioned:
    """Rows are classes, columns what they are taken for; shades are shares of a row."""
    classes = len(names)
    side = min(COLUMN * 1.6, max(COLUMN, 0.21 * classes + 1.2)) if classes <= NAMED else COLUMN
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="taken for", ylabel="class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if classes <= NAMED:
        axes.set_xticks(range(classes), [_cut(name) for name in names], rotation=90)
        axes.set_yticks(range(classes), [_cut(name) for name in names])
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=5.5)
    text = "Rows are classes, columns what their test images are taken for; shades are shares of a row."
    if classes > NAMED:
        text += f" The order of the {classes} classes is that of the table below, which names them."
    right = int(np.trace(counts))
    return Captioned(
        "confusion", "Confusion", text, f"{right} of {counts.sum()} test images lie on the diagonal.", figure
    )


def _cut(name: str, width: int = 18) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def run_reliability_figure(entry: Entry) -> Captioned:
    """A reliability diagram of zero-shot CLIP and of the method's mean."""
    figure, grid = plt.subplots(1, 2, figsize=(COLUMN, 1.9), sharex=True, sharey=True, layout="constrained")
    errors = {}
    modes = {"zero_shot": "zero-shot CLIP", "mean": entry.label}
    for axes, (mode, title), look in zip(grid, modes.items(), line_styles(), strict=False):
        bins = pooled([entry], mode)
        errors[mode] = calibration_error(bins)
        reliability_line(axes, bins, look)
        axes.set_title(f"{_cut(title, 28)}\nECE {errors[mode]:.3f}", pad=2)
        axes.set_aspect("equal")
    figure.supxlabel("confidence", fontsize=7)
    figure.supylabel("accuracy", fontsize=7)
    return Captioned(
        "reliability",
        "Reliability",
        "Accuracy of test images against confidence, before calibration; the area of a dot is the share of "
        "predictions. On the dotted line, what is claimed holds; below it, the method is overconfident.",
        f"The expected calibration error is {errors['zero_shot']:.3f} of plain CLIP, and {errors['mean']:.3f} of "
        "the method.",
        figure,
    )


def training_figure(folder: Path) -> Captioned | None:
    """Loss and accuracy of the training batches over steps; None where nothing was trained."""
    lines_of_run = _metrics(folder / METRICS)
    if len(lines_of_run) < 2:
        return None
    steps = [line["step"] for line in lines_of_run]
    figure, grid = plt.subplots(2, 1, figsize=(COLUMN, 2.6), sharex=True, layout="constrained")
    for axes, (key, title, scale), colour in zip(
        grid, (("loss", "loss, nats", 1), ("accuracy", "accuracy, %", 100)), COLOURS, strict=False
    ):
        values = np.array([scale * line[key] for line in lines_of_run])
        width = max(1, len(values) // 20)
        smooth = np.convolve(np.pad(values, width, mode="edge"), np.ones(2 * width + 1) / (2 * width + 1), "valid")
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.6)
        axes.plot(steps, smooth, color=colour)
        axes.set_ylabel(title)
    grid[-1].set_xlabel("step")
    first, last = lines_of_run[0], lines_of_run[-1]
    return Captioned(
        "training",
        "Training",
        f"Loss and accuracy of the training batches, a line every {steps[1] - steps[0]} steps; strong lines are "
        "running means. A training accuracy of 100 % says nothing of test images.",
        f"From step {first['step']} to {last['step']} the loss goes from {first['loss']:.2f} to "
        f"{last['loss']:.2f}.",
        figure,
    )


def _metrics(path: Path) -> list[Mapping[str, Any]]:
    """The lines of metrics.jsonl that are whole."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [x for x in found if isinstance(x, dict) and {"step", "loss", "accuracy"} <= x.keys()]
