"""Result files to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pini_jax.evaluate import MODES

ROW = "  {:<24}{:>10}{:>9}{:>9}"
UNSEEN = "  {:<24}{:>10}{:>9}{:>9}{:>9}"


def _row(name: str, metrics: Mapping) -> str:
    return ROW.format(name, f"{metrics['accuracy']:.1%}", f"{metrics['nll']:.3f}", f"{metrics['ece']:.3f}")


def table(result: Mapping, num_draws: int) -> str:
    """A run's result as a small table: zero-shot CLIP, then the trained noise by prediction mode."""
    rows = {
        "zero-shot CLIP": result["zero_shot"],
        "PiNI, mean noise": result["test"]["mean"],
        "PiNI, one sample": result["test"]["sample"],
        f"PiNI, {num_draws} samples": result["test"]["marginal"],
    }
    seconds = result["seconds"]
    return "\n".join(
        [
            "",
            f"{result['dataset']} on {result['clip'] or 'given features'}: {result['shots']} shots, "
            f"seed {result['seed']}, {result['num_test']} test images",
            ROW.format("", "accuracy", "NLL", "ECE"),
            *(_row(name, metrics) for name, metrics in rows.items()),
            *_unseen(result),
            f"  {result['trainable_parameters']:,} trained parameters, "
            f"checkpoint of {result['checkpoint_bytes'] / 1e6:.2f} MB",
            f"  {result['steps']:,} steps, {result['steps_per_second']:.0f} per second; seconds: "
            + ", ".join(f"{phase} {value:.1f}" for phase, value in seconds.items()),
        ]
    )


def _unseen(result: Mapping) -> list[str]:
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


def population_table(values: Sequence[Mapping], results: Sequence[Mapping]) -> str:
    """Test accuracy by prediction mode, mean and standard deviation over seeds, of every setting of the others.

    Args:
        values: by which the results' runs differ, by their keys.
    """
    keys = [key for key in values[0] if key != "seed"]
    groups: dict[str, list[Mapping]] = {}
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


def _unseen_means(group: Sequence[Mapping]) -> list[str]:
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
