"""Finished runs, collected from their folders."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from pini_jax.core.copies import place_of
from pini_jax.core.errors import InputError
from pini_jax.core.paths import RESULT, read_object
from pini_jax.runs import population
from pini_jax.runs.folder import CONFIG, read_sealed

LOG = logging.getLogger(__name__)
COMPARISON = "comparison.json"  # in the folder of all contenders' runs: those that validation chose
SHORT = 8  # digits of a hash in a label


class Place(NamedTuple):
    """The dataset and weights of a run: numbers from different places are never pooled or compared."""

    dataset: str
    clip: str
    weights: str


class Entry(NamedTuple):
    """A finished run and its label among those of its place.

    Attributes:
        label: runs of one place and label differ in nothing but shots and seed, or were chosen by validation.
        settings: flat, with the hash of the weights.
    """

    folder: Path
    label: str
    result: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def place(self) -> Place:
        """Its dataset and weights."""
        return Place(*(str(self.settings.get(key, "")) for key in Place._fields))


class Collected(NamedTuple):
    """Finished runs, and those that were left out: `{folder: why}`."""

    entries: list[Entry]
    left_out: dict[Path, str]


def read_runs(folders: Sequence[Path]) -> list[Entry]:
    """All finished runs below some folders; of a comparison, those that were chosen.

    Raises:
        InputError: there is none, or a file is damaged, or of an earlier version.
    """
    for top in folders:
        if not any(top.glob(f"**/{RESULT}")):
            raise InputError(f"there is no finished run in {top}: a run writes result.json last")
    return collect(folders).entries


def collect(folders: Sequence[Path]) -> Collected:
    """Like `read_runs`, but also returns what was left out, and is no error where no run is finished.

    Raises:
        InputError: a file is damaged, or of an earlier version.
    """
    below: dict[Path, list[Entry]] = {}
    left_out: dict[Path, str] = {}
    seen: set[Path] = set()  # folders may lie within each other
    for top in folders:
        chosen = (top / COMPARISON).exists()
        labels = _labels(top, chosen)
        found = [_entry(x, label, chosen) for x, label in labels.items() if x.resolve() not in seen]
        seen |= {folder.resolve() for folder in labels}
        below[top] = [entry for entry in found if entry.result["test"] is not None]
        # As a program's own `Classifier.fit(..., workdir=)` has none.
        left_out |= {entry.folder: "no test images" for entry in found if entry.result["test"] is None}
        if chosen:
            others = {file.parent for file in top.glob(f"**/{RESULT}") if file.parent.resolve() not in seen}
            left_out |= dict.fromkeys(sorted(others), "not chosen by validation")
    kept, repeats = _without_repeats(_named_by_folder(below))
    return Collected(_told_apart(kept), left_out | repeats)


def _named_by_folder(below: Mapping[Path, Sequence[Entry]]) -> list[Entry]:
    """All entries; with several folders, each label begins with the name of its own."""
    if len(below) == 1:
        return list(*below.values())
    return [
        entry._replace(label=f"{top.name}: {entry.label}") for top, entries in below.items() for entry in entries
    ]


def _labels(top: Path, chosen: bool) -> dict[Path, str]:
    """The folders of finished runs, with what they are called, in the order in which they were made."""
    if chosen:
        own = read_object(top / COMPARISON)
        return {top / name: ", ".join(map(str, values.values())) for name, values in own.items()}
    populations = {file.parent: list(read_object(file)) for file in sorted(top.glob(f"**/{population.FILE}"))}

    def order(folder: Path) -> tuple[Path, int, str]:
        names = populations.get(folder.parent, [])
        return folder.parent, names.index(folder.name) if folder.name in names else -1, folder.name

    results = (file for file in top.glob(f"**/{RESULT}") if not is_unpublished(file.relative_to(top)))
    folders = sorted((file.parent for file in results), key=order)
    return {folder: _label(folder) for folder in folders}


def is_unpublished(path: Path) -> bool:
    """Whether a path is within a hidden folder, where workers train what is not published yet."""
    return any(part.startswith(".") for part in path.parts)


def _entry(folder: Path, label: str, chosen: bool) -> Entry:
    """A run; of one that was chosen by validation, what was searched does not tell it from others."""
    result = read_sealed(folder / RESULT)
    settings = read_settings(folder)
    settings["weights"] = str(result.get("clip_sha256", ""))[:SHORT]
    if chosen:
        settings = {key: value for key, value in settings.items() if key in CHOSEN_ON}
    return Entry(folder, label, result, settings)


# What runs of a comparison must share; all else was chosen.
CHOSEN_ON = ("dataset", "clip", "weights", "classes", "shots", "seed")
# What zero-shot CLIP's accuracy depends on.
PLAIN_ON = ("dataset", "clip", "weights", "classes", "tokenizer", "image_size", "dtype", "zero_shot_template")


def _label(folder: Path) -> str:
    """Named values by their names, and settings as key=value; the method where there is neither."""
    file = folder.parent / population.FILE
    values = read_object(file).get(folder.name, {}) if file.exists() else {}
    settings = read_settings(folder)
    own = {key: value for key, value in values.items() if key not in ("shots", "seed")}
    words = [f"{key}={value}" if key in settings and key != "method" else str(value) for key, value in own.items()]
    return ", ".join(words) or settings["method"]


def read_settings(folder: Path, needed: Sequence[str] = ("method", "shots", "seed")) -> dict[str, Any]:
    """A run's config.json, flat.

    Raises:
        InputError: it cannot be read, or lacks what is needed of it.
    """
    file = folder / CONFIG
    settings: dict[str, Any] = flatten_dict(read_object(file), sep=".")
    if lacking := [key for key in needed if key not in settings]:
        raise InputError(f"{file} is damaged: it has no {' and no '.join(lacking)}")
    return settings


def _without_repeats(entries: Sequence[Entry]) -> tuple[list[Entry], dict[Path, str]]:
    """A run that lies in two folders counts once; and those that are left out for it."""
    kept: dict[str, Entry] = {}
    repeats: dict[Path, str] = {}
    for entry in entries:
        same = kept.setdefault(json.dumps([entry.label, entry.settings], sort_keys=True), entry)
        if same is not entry:
            repeats[entry.folder] = f"the run of {place_of(same.folder)} once more"
            LOG.warning("%s is %s, and is left out", place_of(entry.folder), repeats[entry.folder])
    return list(kept.values()), repeats


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Labels with every setting in which runs of one label and place differ, but for shots and seed."""
    groups: dict[tuple[Place, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.place, entry.label), []).append(entry)
    keys = {group: _differing(members) for group, members in groups.items()}

    def words(entry: Entry) -> list[str]:
        return [f"{key}={entry.settings.get(key)}" for key in keys[entry.place, entry.label]]

    return [entry._replace(label=", ".join([entry.label, *words(entry)])) for entry in entries]


def _differing(entries: Sequence[Entry]) -> list[str]:
    """The settings that are not the same in all of them."""
    keys = sorted({key for entry in entries for key in entry.settings} - {"shots", "seed"})
    return [key for key in keys if len({repr(entry.settings.get(key)) for entry in entries}) > 1]


def by_plain_label(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The runs as zero-shot CLIP's, labelled `zero-shot` and told apart by data and weights."""

    def settings(entry: Entry) -> dict[str, Any]:
        return {key: value for key, value in entry.settings.items() if key in PLAIN_ON}

    return by_label(_told_apart([x._replace(label="zero-shot", settings=settings(x)) for x in entries]))


def by_place(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries of each place, by its title; where two have one, whole names and weights tell them apart."""
    places = list(dict.fromkeys(entry.place for entry in entries))
    for title in _title, _long_title:
        titles = [title(place) for place in places]
        if len(set(titles)) == len(places):
            break
    named = dict(zip(places, titles, strict=True))
    return {named[place]: [entry for entry in entries if entry.place == place] for place in places}


def _title(place: Place) -> str:
    return f"{_short(place.dataset)} on {_short(place.clip) or 'given features'}"


def _long_title(place: Place) -> str:
    return f"{place.dataset} on {place.clip or 'given features'} ({place.weights})"


def _short(source: str) -> str:
    """`dtd_vitb32` of `features:/data/dtd_vitb32.npz`."""
    kind, _, path = source.partition(":")
    return Path(path).stem if path and kind in ("features", "folder", "csv") else source


def by_label(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Entries of each label, in the order in which labels appear."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.label, []).append(entry)
    return groups


def by_shots(entries: Iterable[Entry], *path: str) -> dict[int, list[float]]:
    """A number from every run's result, or the sum of several, by shots; runs without it are skipped."""
    values: dict[int, list[float]] = {}
    for entry in entries:
        found: Any = functools.reduce(lambda branch, key: branch.get(key, {}), path, entry.result)
        if numbers := list(found.values()) if isinstance(found, Mapping) else [found] if found is not None else []:
            values.setdefault(entry.result["shots"], []).append(float(sum(numbers)))
    return dict(sorted(values.items()))
