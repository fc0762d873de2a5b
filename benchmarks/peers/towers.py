"""The towers of every library on equal weights: errors, rates, loading, memory, and which formats each reads."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import inputs, timing
from benchmarks.peers import models, worker
from benchmarks.timing import Times

REFERENCE = "transformers"
WORKS = {"images": "images/s", "prompts": "texts/s", "texts": "texts/s, whole"}
COLUMNS = ("model", "library", "image error", "text error", *WORKS.values(), "load, s", "compile, s", "peak, MB")
FINE = 1e-3  # of an error, relative to the greatest value


class Batch(NamedTuple):
    """How many images and texts go through a tower at a time."""

    images: int = inputs.BATCH
    texts: int = inputs.TEXTS


def module(library: str) -> str:
    """What its processes run."""
    return f"benchmarks.peers.workers.{library}"


def measure(
    pythons: Mapping[str, str],
    folder: Path,
    repeats: int,
    configs: Mapping[str, Mapping[str, Any]] = models.TIMED,
    batch: Batch = Batch(),  # noqa: B008, it cannot change
) -> list[dict]:
    """A row for every model and library.

    Args:
        pythons: {library: interpreter of its environment}, transformers among them.
        folder: where the models go.
    """
    models.write_timed(pythons[REFERENCE], folder, configs, *batch)
    return [row for kind in configs for row in _rows(kind, pythons, folder, repeats, batch)]


def _rows(kind: str, pythons: Mapping[str, str], folder: Path, repeats: int, batch: Batch) -> list[dict]:
    """The libraries take turns at one model."""
    outputs = {library: folder / f"{kind}_{library}.npz" for library in pythons}
    with contextlib.ExitStack() as stack:
        workers = {}
        for library, python in pythons.items():
            words = module(library), "measure", str(folder), kind, str(outputs[library])
            workers[library] = stack.enter_context(timing.Worker(*words, python=python))
        tasks = {
            (library, work): (process, work)
            for work in WORKS
            for library, process in workers.items()
            if work in process.said.get("seconds", {})
        }
        times = timing.in_turn(tasks, repeats)
    expected = _features(outputs[REFERENCE])
    rows = []
    for library, process in workers.items():
        row = dict(model=kind, library=library, batch=batch._asdict(), **process.said)
        if "seconds" in row:
            mine = {work: taken for (who, work), taken in times.items() if who == library}
            row |= dict(errors=errors(_features(outputs[library]), expected), peak_mb=process.peak_mb)
            row |= summary(row.pop("seconds"), mine, batch)
        rows.append(row)
    return rows


def _features(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def errors(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of images and of texts, the greater one where texts are encoded in two ways."""
    kinds = {"images": ("images",), "texts": ("texts", "prompts")}
    return {
        kind: max(worker.relative_error(found[work], expected[kind]) for work in works if work in found)
        for kind, works in kinds.items()
        if any(work in found for work in works)
    }


def summary(first: Mapping[str, float], times: Mapping[str, Times], batch: Batch) -> dict:
    """Rates per second; seconds to load, and what first calls took beyond later ones.

    Args:
        first: seconds of loading, and of each first call.
    """
    numbers = {work: batch.images if work == "images" else batch.texts for work in times}
    rates = {
        work: dict(zip(("median", "highest", "lowest"), (numbers[work] / x for x in taken), strict=True))
        for work, taken in times.items()
    }
    extra = sum(max(0.0, first[work] - times[work].median) for work in times)
    return dict(per_second=rates, load_seconds=first["load"], compile_seconds=extra)


def line(row: Mapping[str, Any]) -> list[str]:
    """Its cells."""
    names = [row["model"], row["library"]]
    if "refused" in row:
        return [*names, row["refused"], *[""] * (len(COLUMNS) - 3)]
    rates = [
        "{median:,.1f} ({lowest:,.1f}-{highest:,.1f})".format(**row["per_second"][work])
        if work in row["per_second"]
        else row["refusals"].get(work, "")
        for work in WORKS
    ]
    errors = [f"{row['errors'][kind]:.0e}" if kind in row["errors"] else "" for kind in ("images", "texts")]
    seconds = [f"{row[name]:.1f}" for name in ("load_seconds", "compile_seconds")]
    return [*names, *errors, *rates, *seconds, f"{row['peak_mb']:,.0f}"]


# ------------------------------------------------------------------------------------------------ formats


def read_formats(pythons: Mapping[str, str], folder: Path) -> list[dict]:
    """A row for every format: what each library makes of it."""
    models.write_formats(pythons[REFERENCE], folder)
    found = {library: _attempts(python, library, folder) for library, python in pythons.items()}
    return [
        dict(format=name, libraries={library: attempts[name] for library, attempts in found.items()})
        for name in models.FORMATS
    ]


def _attempts(python: str, library: str, folder: Path) -> dict[str, dict]:
    command = [python, "-m", module(library), "formats", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Read, or read wrongly, with the error; or refused, with a number that a note below explains."""
    notes: dict[str, int] = {}

    def cell(attempt: Mapping[str, Any]) -> str:
        if "refused" in attempt:
            return f"refused ({notes.setdefault(attempt['refused'], len(notes) + 1)})"
        return f"{'read' if attempt['error'] < FINE else '**wrong**'}, {attempt['error']:.0e}"

    libraries = list(rows[0]["libraries"])
    lines = [[row["format"], *(cell(row["libraries"][library]) for library in libraries)] for row in rows]
    below = "\n".join(f"{number}. {reason}" for reason, number in notes.items())
    return f"{timing.table(('format', *libraries), lines)}\n\n{below}"
