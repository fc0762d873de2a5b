"""Many runs from one config: those that can share a compiled step train together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from pini_jax import config as configs
from pini_jax import optim, results, train
from pini_jax.config import Config, Member
from pini_jax.errors import InputError
from pini_jax.methods import registry


def train_and_evaluate(members: Sequence[Member], workdir: Path) -> list[dict]:
    """The results of all members, each in a folder of its own, as if it had been run alone.

    Members that differ in nothing but shots, seed and optimiser share the frozen half and one compiled step. What
    is finished is not repeated; the others go on from their last checkpoints.

    Raises:
        InputError: a run cannot be made, or has diverged; those that share no step with it, and those beside one
            that diverged, are finished first.
        OSError: a folder cannot be written.
    """
    folders = {workdir / member.name: member.config for member in members}
    if len(folders) < len(members):
        raise InputError("population: two members have the same name")
    if members[0].values:
        workdir.mkdir(parents=True, exist_ok=True)
        results.write(workdir / "population.json", {member.name: member.values for member in members})
    found = {folder: results.finished(config, folder) for folder, config in folders.items()}
    problems = []
    for group in _groups({folder: folders[folder] for folder, result in found.items() if result is None}):
        try:
            found |= train.train_together(group)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(dict.fromkeys(problems)))
    return [result for result in found.values() if result is not None]


def _groups(folders: dict[Path, Config]) -> list[dict[Path, Config]]:
    """Runs that differ in nothing but what a compiled step takes as its arguments."""
    groups: dict[str, dict[Path, Config]] = {}
    for folder, config in folders.items():
        words = {word: getattr(config.optim, word) for word in optim.WORDS}
        shots = config.shots if registry.METHODS[config.method].keeps_support else 1
        common = dataclasses.replace(config, shots=shots, seed=0, optim=configs.Optim(**words))
        groups.setdefault(json.dumps(configs.to_dict(common), sort_keys=True), {})[folder] = config
    return list(groups.values())
