"""Tables of a report, as data frames: long ones with every number, wide ones for people.

| frame         | a row for every                                                                       |
|---------------|---------------------------------------------------------------------------------------|
| `runs`        | run                                                                                   |
| `summary`     | dataset, CLIP, method, number of shots and measure: mean, sample deviation and number |
| `comparisons` | two methods of one dataset and CLIP: difference, interval and p-values                |
| `unfinished`  | run without a result                                                                  |
| `left_out`    | run that was read and does not count, with the reason                                 |

Every frame is written as CSV and Parquet with full precision, and as LaTeX with four digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from arro3.core import Array, DataType, Table
from arro3.io import write_parquet
from flax.traverse_util import flatten_dict

from pini_jax.core.copies import place_of
from pini_jax.evaluate.prediction import MODES
from pini_jax.report import statistics
from pini_jax.report.collect import Collected, Entry, by_label, by_plain_label, by_shots
from pini_jax.report.outcomes import Comparison
from pini_jax.report.unfinished import Unfinished

SETS = ("doubt", "modes", "mean", "sets", "lac")
PLACE = ["dataset", "clip", "weights"]
# Of result.json; what else it measures is added as it is.
MEASURED = (
    "zero_shot",
    "val",
    "test",
    "information",
    "draws",
    "harmonic_mean",
    "unseen",
    "doubt",
    "steps",
    "trainable_parameters",
    "seconds",
    "peak_bytes",
)


class Measure(NamedTuple):
    """A number of a result, or a branch whose numbers are summed, and how it is printed."""

    path: tuple[str, ...]
    scale: float
    digits: int


SHOWN = {
    "NLL, nats": Measure(("test", "mean", "nll"), 1, 3),
    "NLL, nats, calibrated": Measure(("test", "mean", "calibrated_nll"), 1, 3),
    "ECE": Measure(("test", "mean", "ece"), 1, 3),
    "ECE, calibrated": Measure(("test", "mean", "calibrated_ece"), 1, 3),
    "coverage of sets of plausible classes": Measure((*SETS, "coverage"), 1, 3),
    "plausible classes of an image": Measure((*SETS, "mean_size"), 1, 1),
    "share of images that may be of none of the classes": Measure(("doubt", "modes", "mean", "unsure"), 1, 3),
    "usable information, nats": Measure(("information", "usable_information"), 1, 2),
    "draws against their mean, nats": Measure(("draws", "averaged", "nats"), 1, 3),
    "draws against their mean, nats, calibrated": Measure(("draws", "calibrated", "nats"), 1, 3),
    "seconds": Measure(("seconds",), 1, 1),
    "peak memory, MB": Measure(("peak_bytes",), 1e-6, 0),
}


def runs_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """All numbers of every run, in columns such as `test.mean.accuracy`."""
    return pd.DataFrame([_run(entry) for entry in entries])


def _run(entry: Entry) -> dict[str, Any]:
    result = entry.result
    measured = {key: result[key] for key in MEASURED if result.get(key) is not None}
    folder = place_of(entry.folder)
    known = {"label": entry.label, "shots": result["shots"], "seed": result["seed"], "folder": folder}
    numbers = {key: x for key, x in flatten_dict(measured, sep=".").items() if isinstance(x, int | float)}
    return entry.place._asdict() | known | numbers


def summary_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean, sample standard deviation and number of seeds of every measure."""
    keys = [*PLACE, "label", "shots"]
    numbers = runs.drop(columns=["seed", "folder"]).melt(keys, var_name="measure").dropna(subset="value")
    grouped = numbers.groupby([*keys, "measure"], sort=False)["value"]
    return grouped.agg(mean="mean", std="std", runs="count").reset_index()  # pandas divides by n - 1


def comparisons_frame(found: Mapping[str, Sequence[Comparison]]) -> pd.DataFrame:
    """The comparisons of every place, by its title."""
    columns = ["place", "first", "second", "difference", "low", "high", "p", "p_holm", "shots", "seeds", "images"]
    rows = [
        (title, x.first, x.second, *x.difference, x.adjusted, " ".join(map(str, x.shots)), x.seeds, x.images)
        for title, comparisons in found.items()
        for x in comparisons
    ]
    return pd.DataFrame(rows, columns=columns)


def unfinished_frame(runs: Sequence[Unfinished]) -> pd.DataFrame:
    """What a sweep still lacks."""
    return pd.DataFrame([(place_of(x.folder), *x[1:]) for x in runs], columns=Unfinished._fields)


def left_out_frame(collected: Collected) -> pd.DataFrame:
    """What was read but does not count."""
    rows = [(place_of(folder), reason) for folder, reason in collected.left_out.items()]
    return pd.DataFrame(rows, columns=["folder", "reason"])


# ------------------------------------------------------------------------------------------------ for people


def wide_frames(entries: Sequence[Entry]) -> dict[str, pd.DataFrame]:
    """Tables of methods against shots, by title: mean ± sample standard deviation over seeds."""
    is_random = any(x.result["test"]["mean"] != x.result["test"]["marginal"] for x in entries)
    frames = {}
    for mode in MODES if is_random else MODES[:1]:
        suffix = f" ({mode})" if is_random else ""
        frames[f"accuracy, %{suffix}"] = _wide(entries, ("test", mode, "accuracy"), 100, 1)
    for title, shown in SHOWN.items():
        if by_shots(entries, *shown.path):
            frames[title] = _wide(entries, *shown)
    return frames


def _wide(entries: Sequence[Entry], path: Sequence[str], scale: float, digits: int) -> pd.DataFrame:
    """Rows of methods, zero-shot CLIP first if it has the same numbers; the last column is the mean over shots."""
    rows: dict[str, dict[int, list[float]]] = {}
    if path[0] == "test":
        rows = {label: by_shots(group, "zero_shot", path[-1]) for label, group in by_plain_label(entries).items()}
    rows |= {label: by_shots(group, *path) for label, group in by_label(entries).items()}
    shots = sorted({k for row in rows.values() for k in row})
    cells = {
        label: [_cell(row.get(k, []), scale, digits) for k in shots] + [_mean(row, shots, scale, digits)]
        for label, row in rows.items()
    }
    columns = pd.Index([*map(str, shots), "mean"], name="shots")
    return pd.DataFrame.from_dict(cells, orient="index", columns=columns)


def _cell(values: Sequence[float], scale: float, digits: int) -> str:
    if not values:
        return "–"
    mean = f"{scale * sum(values) / len(values) + 0.0:.{digits}f}"
    return f"{mean} ± {scale * statistics.spread(values):.{digits}f}" if len(values) > 1 else mean


def _mean(row: Mapping[int, Sequence[float]], shots: Sequence[int], scale: float, digits: int) -> str:
    """Over all shots, where a method has them."""
    if row.keys() != set(shots):
        return "–"
    return f"{scale * sum(sum(x) / len(x) for x in row.values()) / len(row):.{digits}f}"


def markdown(title: str, frame: pd.DataFrame) -> str:
    """A wide table."""
    whole = frame.rename_axis(title).reset_index().map(lambda cell: str(cell).replace("|", "\\|"))
    return str(whole.to_markdown(disable_numparse=True, index=False))


# ------------------------------------------------------------------------------------------------ files


def write_table(frame: pd.DataFrame, folder: Path, name: str) -> None:
    """A frame as CSV, Parquet and, for a paper, LaTeX with four digits."""
    frame.to_csv(folder / f"{name}.csv", index=False)
    frame.to_latex(folder / f"{name}.tex", index=False, escape=True, float_format="%.4g", na_rep="")
    columns: dict[str, Any] = {str(key): _column(frame[key]) for key in frame}
    write_parquet(Table.from_pydict(columns), folder / f"{name}.parquet")


def _column(values: pd.Series) -> Array:
    if pd.api.types.is_numeric_dtype(values):
        return Array.from_numpy(values.to_numpy())
    return Array([None if pd.isna(x) else str(x) for x in values], type=DataType.string())
