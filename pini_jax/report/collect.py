"""Finished runs, collected from their folders."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flax.traverse_util import flatten_dict

from pini_jax.core.errors import InputError
from pini_jax.core.paths import read_json
from pini_jax.runs.folder import read_result


class Entry(NamedTuple):
    """A finished run, and what it is called beside others: its settings other than shots and seed."""

    folder: Path
    label: str
    result: Mapping


def read(folders: Sequence[Path]) -> list[Entry]:
    """All finished runs below some folders; of a comparison, those that were chosen.

    Raises:
        InputError: there is none, or a file is damaged, or of an earlier version.
    """
    entries = []
    for top in folders:
        found = [Entry(folder, label, _result(folder)) for folder, label in _labels(top).items()]
        if not found:
            raise InputError(f"there is no finished run in {top}: a run writes result.json last")
        several = len(folders) > 1
        entries += [entry._replace(label=f"{top.name}: {entry.label}") if several else entry for entry in found]
    return entries


def _labels(top: Path) -> dict[Path, str]:
    """The folders of finished runs, with what they are called, in the order in which they were made."""
    if (comparison := top / "comparison.json").exists():
        return {top / name: ", ".join(map(str, own.values())) for name, own in read_json(comparison).items()}
    populations = {file.parent: list(read_json(file)) for file in sorted(top.glob("**/population.json"))}

    def order(folder: Path) -> tuple[Path, int, str]:
        names = populations.get(folder.parent, [])
        return folder.parent, names.index(folder.name) if folder.name in names else -1, folder.name

    folders = sorted((file.parent for file in top.glob("**/result.json")), key=order)
    return {folder: _label(folder) for folder in folders}


def _result(folder: Path) -> dict:
    return read_result(folder / "result.json")


def _label(folder: Path) -> str:
    """Named values by their names, and settings as key=value; the method where there is neither."""
    population = folder.parent / "population.json"
    values = read_json(population).get(folder.name, {}) if population.exists() else {}
    settings = flatten_dict(read_json(folder / "config.json"), sep=".")
    own = {key: value for key, value in values.items() if key not in ("shots", "seed")}
    words = [f"{key}={value}" if key in settings and key != "method" else str(value) for key, value in own.items()]
    return ", ".join(words) or settings["method"]


def by_label(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Entries of each label, in the order in which labels appear."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.label, []).append(entry)
    return groups


def by_shots(entries: Iterable[Entry], *path: str) -> dict[int, list[float]]:
    """A number of every run's result, by shots."""
    found: dict[int, list[float]] = {}
    for entry in entries:
        value = functools.reduce(operator.getitem, path, entry.result)
        found.setdefault(entry.result["shots"], []).append(float(value))  # type: ignore[arg-type]
    return dict(sorted(found.items()))
