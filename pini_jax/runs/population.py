"""Many runs from one config: those that can share a compiled step train together."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from flax.traverse_util import flatten_dict

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import paths
from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.methods import optim
from pini_jax.runs import experiment


class Member(NamedTuple):
    """A run of a population.

    Attributes:
        values: by which it differs from the others, by their keys.
    """

    values: Mapping[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """Of its folder, such as shots_4-seed_1; nothing where there is no population."""
        return "-".join(f"{key}_{value}".replace("/", "_") for key, value in self.values.items())


def members(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> list[Member]:
    """The run of these settings; or, where `population` is {key: (value, ...), ...}, one of every combination.

    An entry {title: {name: {key: value, ...}, ...}} of `population` has named values, each of several settings.

    Raises:
        InputError: all problems at once.
    """
    if isinstance(settings, ml_collections.ConfigDict):
        settings = settings.to_dict()
    population = settings.get("population") or {}
    one = configs.to_dict(configs.resolve({key: value for key, value in settings.items() if key != "population"}))
    known = flatten_dict(one, sep=".")
    if not isinstance(population, Mapping):
        raise InputError(f"population={population!r} must be {{key: (value, ...), ...}}")
    for key, values in population.items():
        if isinstance(values, Mapping) and values and all(isinstance(x, Mapping) for x in values.values()):
            continue
        if key not in known:
            raise InputError(f"population has no key {key!r}{did_you_mean(str(key), known)}")
        if not isinstance(values, (tuple, list)) or not values or len(set(map(repr, values))) < len(values):
            raise InputError(f"population: {key!r} must have values that differ, not {values!r}")
    combinations = [
        dict(zip(population, values, strict=True)) for values in itertools.product(*population.values())
    ]
    return [Member(values, configs.resolve(_changed(one, population, values))) for values in combinations]


def _changed(
    settings: Mapping[str, Any], population: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of one combination; what a named value sets takes the place of all that was there."""
    changed = copy.deepcopy(dict(settings))
    for title, value in values.items():
        named = population[title]
        for key, own in named[value].items() if isinstance(named, Mapping) else [(title, value)]:
            *path, last = key.split(".")
            branch = changed
            for part in path:
                branch = branch[part]
            branch[last] = own
    return changed


def train_population(members: Sequence[Member], workdir: Path) -> list[dict[str, Any]]:
    """The results of all members, each in a folder of its own.

    Members that differ in nothing but shots, seed and optimiser share the frozen half and one compiled step. What
    is finished is not repeated; the others go on from their last checkpoints.

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
        paths.write_json(workdir / "population.json", {member.name: member.values for member in members})
    results: dict[Path, dict[str, Any]] = {}
    problems = []
    for group in groups(folders):
        try:
            results |= experiment.train_together(group)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(dict.fromkeys(problems)))
    return [results[folder] for folder in folders]


def groups(folders: Mapping[Path, Config]) -> list[dict[Path, Config]]:
    """Runs that differ in nothing but what a compiled step takes as its arguments."""
    alike: dict[str, dict[Path, Config]] = {}
    for folder, config in folders.items():
        words = {word: getattr(config.optim, word) for word in optim.WORDS}
        shots = config.shots if configs.make_method(config).traits.keeps_support else 1
        common = dataclasses.replace(config, shots=shots, seed=0, optim=optim.Optim(**words))
        alike.setdefault(json.dumps(configs.to_dict(common), sort_keys=True), {})[folder] = config
    return list(alike.values())
