"""What commands print of results: the table of a run, of a population and of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from pini_jax.core.wording import plain
from pini_jax.evaluate.prediction import MODES
from pini_jax.methods import registry
from pini_jax.report.collect import Entry, by_label, by_place, by_plain_label, by_shots

Result = Mapping[str, Any]
METRICS = {"accuracy": ("accuracy", "{:.1%}"), "nll": ("NLL", "{:.3f}"), "ece": ("ECE", "{:.3f}")}


def table(result: Result, num_draws: int) -> str:
    """A run's result: zero-shot CLIP, then the trained method by prediction mode, then what it cost."""
    rows = {"zero-shot CLIP": result["zero_shot"]} | titled(result, num_draws)
    seconds = result["seconds"]
    steps = f"{result['steps']:,} steps" if result["steps"] else "no steps: it is solved for"
    rate = f", {result['steps_per_second']:,.0f} per second" if result["steps_per_second"] >= 1 else ""
    lines = [
        f"{plain(result['dataset'])} on {plain(result['clip'] or 'given features')}: {result['shots']} shots, "
        f"seed {result['seed']}, {result['num_test']} test images",
        _indented(
            _table([[name, *_metrics(x)] for name, x in rows.items()], ["", *(x for x, _ in METRICS.values())])
        ),
        *_unseen(result),
        f"  {told(result)}",
        f"  {result['trainable_parameters']:,} trained parameters, "
        f"checkpoint of {result['checkpoint_bytes'] / 1e6:.2f} MB",
        f"  {steps}{rate}; seconds: " + ", ".join(f"{phase} {value:.1f}" for phase, value in seconds.items()),
        *(f"  note: {warning}" for warning in warnings(result)),
    ]
    return "\n".join(["", *lines])


def titled(result: Result, num_draws: int) -> dict[str, Mapping[str, Any]]:
    """What was trained, by a name for every way of prediction that differs."""
    test = result["test"]
    if not registry.makes_noise(result["method"]):
        return {result["method"]: test["mean"]}
    if test["mean"] == test["sample"] == test["marginal"]:
        return {"PiNI": test["mean"]}
    names = "PiNI, mean noise", "PiNI, one sample", f"PiNI, {num_draws} samples"
    return {name: test[mode] for name, mode in zip(names, MODES, strict=True)}


def told(result: Result) -> str:
    """What the method adds, in words: its usable information."""
    information = result["information"]
    gain, error = information["usable_information"], information["standard_error"]
    how = "less" if gain >= 0 else "more"
    return f"{abs(gain):.3f} nats (+- {error:.3f}) {how} surprised by the right answers than zero-shot CLIP"


def warnings(result: Result) -> list[str]:
    """Warnings about results that are hardly intended."""
    found = []
    plain, classes = result["zero_shot"]["accuracy"], result.get("num_classes", 0)
    if result["clip"] == "tiny_clip" and classes and plain < 1.5 / classes:
        found.append(
            f"zero-shot is near chance ({plain:.1%} of {classes} classes): tiny_clip knows letters and digits "
            "alone; for photographs choose another with --config.clip"
        )
    if below := below_zero_shot(result):
        found.append(f"{below}: tune it, or compare methods with `pini compare`")
    return found


def below_zero_shot(result: Result) -> str:
    """A sentence if validation images are classified worse than by zero-shot CLIP; otherwise empty."""
    if not result.get("val") or "val_zero_shot" not in result:
        return ""
    before, after = result["val_zero_shot"]["accuracy"], result["val"]["mean"]["accuracy"]
    return f"on validation images it is below zero-shot CLIP ({after:.1%}, {before:.1%})" if after < before else ""


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    return [form.format(metrics[name]) for name, (_, form) in METRICS.items()]


def _unseen(result: Result) -> list[str]:
    """Accuracy on what was not trained, with the harmonic mean of base and new classes."""
    if "unseen" not in result:
        return []
    modes = _modes(result)
    rows = [
        [
            f"{name} ({x['num_classes']} classes)",
            *_accuracies([x["zero_shot"], *(x["test"][mode] for mode in modes)]),
        ]
        for name, x in result["unseen"].items()
    ]
    if means := result.get("harmonic_mean"):
        rows.append(["harmonic mean", *(f"{means[key]:.1%}" for key in ("zero_shot", *modes))])
    return [_indented(_table(rows, ["not seen in training", "zero-shot", *modes]))]


def _modes(*results: Result) -> tuple[str, ...]:
    """The ways of prediction that differ."""
    return MODES if any(x["test"]["mean"] != x["test"]["marginal"] for x in results) else MODES[:1]


def _accuracies(metrics: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{x['accuracy']:.1%}" for x in metrics]


def population_table(values: Sequence[Mapping[str, Any]], results: Sequence[Result]) -> str:
    """Test accuracy by prediction mode, mean and sample standard deviation over seeds, of all other settings.

    Args:
        values: by which the results' runs differ, by their keys.
    """
    keys = [key for key in values[0] if key != "seed"]
    groups: dict[tuple[str, ...], list[Result]] = {}
    for own, result in zip(values, results, strict=True):
        groups.setdefault(tuple(str(own[key]) for key in keys), []).append(result)
    modes = _modes(*results)
    rows = []
    for setting, group in groups.items():
        plain = statistics.fmean(x["zero_shot"]["accuracy"] for x in group)
        cells = [mean_and_spread([x["test"][mode]["accuracy"] for x in group]) for mode in modes]
        rows += [[*setting, f"{plain:.1%}", *cells], *_unseen_means(group, len(keys), modes)]
    return "\n" + _table(rows, [*keys, "zero-shot", *_titles(modes)])


def _titles(modes: Sequence[str]) -> list[str]:
    return list(modes) if len(modes) > 1 else ["accuracy"]


def _unseen_means(group: Sequence[Result], keys: int, modes: Sequence[str]) -> list[list[str]]:
    """Rows of what was not trained, and of the harmonic mean of base and new classes."""
    rows = {
        name: [[x["unseen"][name]["test"][mode]["accuracy"] for x in group] for mode in modes]
        for name in group[0].get("unseen", {})
    }
    if "harmonic_mean" in group[0]:
        rows["harmonic mean"] = [[x["harmonic_mean"][mode] for x in group] for mode in modes]
    return [[name, *[""] * keys, *map(mean_and_spread, cells)] for name, cells in rows.items()]


def comparison(entries: Sequence[Entry]) -> str:
    """Accuracy by method and shots for every dataset and CLIP; then calibration, and what a run costs."""
    tables = []
    for title, of_place in by_place(entries).items():
        rows = {
            label: by_shots(group, "zero_shot", "accuracy") for label, group in by_plain_label(of_place).items()
        }
        rows |= {label: by_shots(x, "test", "mean", "accuracy") for label, x in by_label(of_place).items()}
        shots = sorted({k for row in rows.values() for k in row})
        cells = [[label, *(mean_and_spread(row.get(k, [])) for k in shots)] for label, row in rows.items()]
        tables.append(f"{title}: accuracy by shots\n" + _table(cells, ["", *map(str, shots)]))
        tables.append(f"{title}: means over shots\n" + _beside(of_place, shots))
    return "\n\n".join(tables)


BESIDE = {"nll": "NLL", "calibrated_nll": "calibrated", "ece": "ECE", "calibrated_ece": "calibrated"}
COSTS = {"seconds": ("seconds", "{:.1f}", 1.0), "peak_bytes": ("peak MB", "{:,.0f}", 1e-6)}


def _beside(entries: Sequence[Entry], shots: Sequence[int]) -> str:
    """How far probabilities can be believed, raw and calibrated, and what a run costs."""

    def cell(group: Sequence[Entry], path: Sequence[str], form: str = "{:.3f}", scale: float = 1.0) -> str:
        found = by_shots(group, *path)
        known = found and found.keys() == set(shots)
        return form.format(scale * statistics.fmean(map(statistics.fmean, found.values()))) if known else "-"

    rows = [
        [label, *(cell(group, ("zero_shot", name)) for name in BESIDE), *["-"] * len(COSTS)]
        for label, group in by_plain_label(entries).items()
    ]
    rows += [
        [
            label,
            *(cell(group, ("test", "mean", name)) for name in BESIDE),
            *(cell(group, (key,), form, scale) for key, (_, form, scale) in COSTS.items()),
        ]
        for label, group in by_label(entries).items()
    ]
    return _table(rows, ["", *BESIDE.values(), *(title for title, _, _ in COSTS.values())])


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean, with the sample standard deviation if there is one."""
    if not values:
        return "-"
    spread = f" +- {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1%}{spread}"


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True, colalign=align)


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
