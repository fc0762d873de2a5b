"""Result files to tables and figures: python -m pini_jax.report runs/sweep [runs/other ...] [--output=FOLDER].

Reads every run below the folders, and writes report.md and PNG files to `output` (the first folder's `report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pini_jax.core.wording import plain
from pini_jax.evaluate.prediction import MODES
from pini_jax.methods import registry
from pini_jax.report.collect import Entry, by_label, by_plain_label, by_shots

ROW = "  {:<24}{:>10}{:>9}{:>9}"
UNSEEN = "  {:<24}{:>10}{:>9}{:>9}{:>9}"


def markdown(entries: Sequence[Entry]) -> str:
    """Tables over labels and shots: accuracy by prediction mode, and usable information.

    Mean +- standard deviation over seeds; the last column is the mean over shots.
    """
    random = any(x.result["test"]["mean"] != x.result["test"]["marginal"] for x in entries)
    groups = by_label(entries)
    tables = []
    for mode in MODES if random else MODES[:1]:
        rows = {
            label: by_shots(group, "zero_shot", "accuracy") for label, group in by_plain_label(entries).items()
        }
        rows |= {label: by_shots(group, "test", mode, "accuracy") for label, group in groups.items()}
        tables.append(
            _shots_table(f"accuracy, % ({mode})" if random else "accuracy, %", rows, scale=100, digits=1)
        )
    rows = {label: by_shots(group, "information", "usable_information") for label, group in groups.items()}
    tables.append(_shots_table("usable information, nats", rows, scale=1, digits=2))
    return "\n\n".join(tables)


def _shots_table(title: str, rows: Mapping[str, Mapping[int, list[float]]], scale: float, digits: int) -> str:
    shots = sorted({k for row in rows.values() for k in row})
    lines = [f"| {title} | " + " | ".join(map(str, shots)) + " | mean |", "|---|" + "---|" * (len(shots) + 1)]
    for label, row in rows.items():
        cells = []
        for k in shots:
            values = scale * np.array(row.get(k, []))
            spread = f" +- {values.std():.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean() + 0.0:.{digits}f}{spread}" if len(values) else "-")
        means = [scale * np.mean(row[k]) for k in shots if k in row]
        whole = f"{np.mean(means):.{digits}f}" if len(means) == len(shots) else ""
        lines.append(f"| {plain(label)} | " + " | ".join(cells) + f" | {whole} |")
    return "\n".join(lines)


def _row(name: str, metrics: Mapping[str, Any]) -> str:
    return ROW.format(name, f"{metrics['accuracy']:.1%}", f"{metrics['nll']:.3f}", f"{metrics['ece']:.3f}")


def table(result: Mapping[str, Any], num_draws: int) -> str:
    """A run's result as a small table: zero-shot CLIP, then the trained noise by prediction mode."""
    rows = {"zero-shot CLIP": result["zero_shot"]}
    if registry.makes_noise(result["method"]):
        titles = "PiNI, mean noise", "PiNI, one sample", f"PiNI, {num_draws} samples"
        rows |= {title: result["test"][mode] for title, mode in zip(titles, MODES, strict=True)}
    else:
        rows[result["method"]] = result["test"]["mean"]
    seconds, information = result["seconds"], result["information"]
    return "\n".join(
        [
            "",
            f"{plain(result['dataset'])} on {plain(result['clip'] or 'given features')}: {result['shots']} shots, "
            f"seed {result['seed']}, {result['num_test']} test images",
            ROW.format("", "accuracy", "NLL", "ECE"),
            *(_row(name, metrics) for name, metrics in rows.items()),
            *_unseen(result),
            f"  usable information {information['usable_information']:+.3f} nats, "
            f"H(T) - H(T|E) {information['mutual_information']:+.3f} (+- {information['standard_error']:.3f})",
            f"  {result['trainable_parameters']:,} trained parameters, "
            f"checkpoint of {result['checkpoint_bytes'] / 1e6:.2f} MB",
            f"  {result['steps']:,} steps, {result['steps_per_second']:.0f} per second; seconds: "
            + ", ".join(f"{phase} {value:.1f}" for phase, value in seconds.items()),
        ]
    )


def _unseen(result: Mapping[str, Any]) -> list[str]:
    """Accuracy on what was not trained, with the harmonic mean of base and new classes."""
    if "unseen" not in result:
        return []
    lines = [UNSEEN.format("not seen in training", "zero-shot", *MODES)]
    for name, task in result["unseen"].items():
        accuracies = [task["zero_shot"], *(task["test"][mode] for mode in MODES)]
        title = f"{name} ({task['num_classes']} classes)"
        lines.append(UNSEEN.format(title, *(f"{x['accuracy']:.1%}" for x in accuracies)))
    if means := result.get("harmonic_mean"):
        lines.append(UNSEEN.format("harmonic mean", *(f"{means[key]:.1%}" for key in ("zero_shot", *MODES))))
    return lines


def population_table(values: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> str:
    """Test accuracy by prediction mode, mean and standard deviation over seeds, of every setting of the others.

    Args:
        values: by which the results' runs differ, by their keys.
    """
    keys = [key for key in values[0] if key != "seed"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for own, result in zip(values, results, strict=True):
        groups.setdefault(", ".join(str(own[key]) for key in keys), []).append(result)
    head = ", ".join(keys)
    width = max(7, *map(len, (head, *groups)))
    lines = ["", f"{head:>{width}}  zero-shot " + "".join(f"{mode:>18}" for mode in MODES)]
    for label, group in groups.items():
        cells = (_mean_and_spread([result["test"][mode]["accuracy"] for result in group]) for mode in MODES)
        zero_shot = np.mean([result["zero_shot"]["accuracy"] for result in group])
        lines.append(f"{label:>{width}}  {zero_shot:>9.1%} " + "".join(f"{cell:>18}" for cell in cells))
        lines += _unseen_means(group)
    return "\n".join(lines)


def _unseen_means(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of what was not trained, and of the harmonic mean of base and new classes."""
    rows = {
        name: [[result["unseen"][name]["test"][mode]["accuracy"] for result in group] for mode in MODES]
        for name in group[0].get("unseen", {})
    }
    if "harmonic_mean" in group[0]:
        rows["harmonic mean"] = [[result["harmonic_mean"][mode] for result in group] for mode in MODES]
    return [
        f"{name:>17} " + "".join(f"{_mean_and_spread(values):>18}" for values in cells)
        for name, cells in rows.items()
    ]


def _mean_and_spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1%} +- {100 * np.std(values):.1f}"
