"""Many runs from one config: those that can share a compiled step train together."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import paths
from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.methods import optim
from pini_jax.runs import experiment
from pini_jax.train.watch import UNWATCHED, Watch

FILE = "population.json"  # in the folder of the runs' folders: {name: values}
LETTERS = 200  # of a folder's name
HASH = 12  # of its hash, where it is cut


class Member(NamedTuple):
    """A run of a population.

    Attributes:
        values: by which it differs from the others, by their keys.
    """

    values: Mapping[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """The name of its folder, such as shots_4-seed_1; empty if there is no population."""
        return member_name(self.values)


def member_name(values: Mapping[str, Any]) -> str:
    """The folder of a member that differs by these values; long names end in a hash, as file systems want it."""
    name = "-".join(f"{key}_{value}".replace("/", "_") for key, value in values.items())
    if len(name) <= LETTERS:
        return name
    return f"{name[: LETTERS - HASH - 1]}-{hashlib.sha256(name.encode()).hexdigest()[:HASH]}"


class Variation(NamedTuple):
    """What makes a member of a config.

    Attributes:
        values: by which it differs from the others, as in `Member`.
        settings: what that sets, {key: value}; a branch of settings is replaced as a whole.
    """

    values: Mapping[str, Any]
    settings: Mapping[str, Any]


def members(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> list[Member]:
    """The run of these settings or, with a `population`, those of all its variations.

    Raises:
        InputError: as in `config.resolve` and in `variations`.
    """
    base, population = split(settings)
    return [
        Member(variation.values, configs.resolve(changed(base, variation.settings)))
        for variation in variations(base, population)
    ]


def split(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> tuple[dict[str, Any], Any]:
    """All settings of one run, checked, and the population.

    Raises:
        InputError: as in `config.resolve`.
    """
    if isinstance(settings, ml_collections.ConfigDict):
        settings = settings.to_dict()
    resolved = configs.resolve({key: value for key, value in settings.items() if key != "population"})
    return configs.to_dict(resolved), settings.get("population") or {}


def variations(base: Mapping[str, Any], population: Any) -> list[Variation]:
    """All combinations of {key: (value, ...), ...}, or the entries of a list of {key: value}.

    An entry {title: {name: {key: value, ...}, ...}} of `population` has named values, each of several settings.

    Raises:
        InputError: it is neither, or has unknown keys.
    """
    known = _keys(base)
    if isinstance(population, (tuple, list)):
        return _listed_variations(population, known)
    if not isinstance(population, Mapping):
        raise InputError(
            f"population={population!r} must be {{key: (value, ...), ...}}, or a list of {{key: value}}"
        )
    for key, values in population.items():
        if _is_named(values):
            continue
        if key not in known:
            raise InputError(f"population has no key {key!r}{did_you_mean(str(key), known)}")
        if not isinstance(values, (tuple, list)) or not values or len(set(map(repr, values))) < len(values):
            raise InputError(f"population: {key!r} must have values that differ, not {values!r}")
    combinations = (
        dict(zip(population, values, strict=True)) for values in itertools.product(*population.values())
    )
    return [Variation(values, _settings_of(values, population)) for values in combinations]


def _listed_variations(population: Sequence[Any], known: Mapping[str, Any]) -> list[Variation]:
    for settings in population:
        if not isinstance(settings, Mapping) or not settings:
            raise InputError(f"population: {settings!r} must be {{key: value, ...}}")
        if unknown := [key for key in settings if key not in known]:
            raise InputError(f"population has no key {unknown[0]!r}{did_you_mean(str(unknown[0]), known)}")
    return [Variation(settings, settings) for settings in population]


def _keys(base: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting by its whole key, and every branch of settings."""
    found = {}
    for key, value in base.items():
        found[key] = value
        if isinstance(value, Mapping):
            found |= {f"{key}.{rest}": own for rest, own in _keys(value).items()}
    return found


def _is_named(values: Any) -> bool:
    return isinstance(values, Mapping) and bool(values) and all(isinstance(x, Mapping) for x in values.values())


def _settings_of(values: Mapping[str, Any], population: Mapping[str, Any]) -> dict[str, Any]:
    """What the values of a combination set."""
    settings: dict[str, Any] = {}
    for title, value in values.items():
        named = population[title]
        settings |= named[value] if isinstance(named, Mapping) else {title: value}
    return settings


def changed(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a variation; what it sets takes the place of all that was there.

    Raises:
        InputError: a key leads nowhere.
    """
    whole = copy.deepcopy(dict(base))
    for key, own in settings.items():
        *path, last = key.split(".")
        branch: Any = whole
        for part in path:
            if not isinstance(branch.get(part), Mapping):
                raise InputError(f"population: {key!r} sets nothing: there is no {part!r} in what it is to change")
            branch = branch[part]
        branch[last] = own
    return whole


def train_population(members: Sequence[Member], workdir: Path, watch: Watch = UNWATCHED) -> list[dict[str, Any]]:
    """The results of all members, each in a folder of its own.

    Members that differ in nothing but shots, seed and optimiser share the frozen half and one compiled step. What
    is finished is not repeated; the others go on from their last checkpoints.

    Args:
        watch: is told how far they are, and what is on the disk.

    Raises:
        InputError: a run cannot be made, or has diverged; all others are finished first.
        OSError: a folder cannot be written.
        Stopped: somebody asked for it; everything is saved.
    """
    folders = {workdir / member.name: member.config for member in members}
    if len(folders) < len(members):
        raise InputError("population: two members have the same name")
    if members[0].values:
        workdir.mkdir(parents=True, exist_ok=True)
        paths.write_json(workdir / FILE, {member.name: member.values for member in members})
    results: dict[Path, dict[str, Any]] = {}
    problems = []
    for group in groups(folders):
        try:
            results |= experiment.train_together(group, watch)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(dict.fromkeys(problems)))
    return [results[folder] for folder in folders]


def groups(folders: Mapping[Path, Config]) -> list[dict[Path, Config]]:
    """Groups of runs that differ only in what a compiled step takes as arguments."""
    alike: dict[str, dict[Path, Config]] = {}
    for folder, config in folders.items():
        words = {word: getattr(config.optim, word) for word in optim.WORDS}
        shots = config.shots if configs.make_method(config).traits.keeps_support else 1
        common = dataclasses.replace(config, shots=shots, seed=0, optim=optim.Optim(**words))
        alike.setdefault(json.dumps(configs.to_dict(common), sort_keys=True), {})[folder] = config
    return list(alike.values())
