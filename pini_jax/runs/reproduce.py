"""A finished run, made again from what its folder says, and held against the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from pini_jax import config as configs
from pini_jax.core import paths
from pini_jax.core.errors import InputError
from pini_jax.core.wording import MOST, listed
from pini_jax.runs import experiment, folder

MEASURED = ("zero_shot", "val", "test", "unseen", "information", "draws")


def reproduce(run: Path, workdir: Path) -> list[str]:
    """Repeats the run of a folder in another one, and lists what is the same and what is not.

    Raises:
        InputError: there is no finished run, or it cannot be made again; the message says why.
    """
    if not (run / paths.RESULT).exists():
        raise InputError(f"{run} holds no finished run: there is no result.json")
    before = folder.read_sealed(run / paths.RESULT)
    config = configs.resolve(paths.read_object(run / folder.CONFIG))
    config = dataclasses.replace(config, clip=folder.pinned_clip({run: config}) or config.clip)
    after = experiment.train_and_evaluate(config, workdir)
    return [
        f"{run} is made again in {workdir}",
        *_differences(before, after),
        *_causes(run, workdir, before, after),
    ]


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """How far numbers are apart."""
    first, second = (flatten_dict({key: x[key] or {} for key in MEASURED if key in x}) for x in (before, after))
    apart = {
        key: abs(first[key] - second[key]) for key in first.keys() & second.keys() if first[key] != second[key]
    }
    if not apart and first.keys() == second.keys():
        yield "all that was measured is the same to the bit"
    for key in sorted(apart, key=lambda key: -apart[key])[:MOST]:
        yield f"{'.'.join(key)} was {first[key]}, and is {second[key]}"


def _causes(run: Path, workdir: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it was."""
    for key in ("selection_sha256", "clip_sha256", "device", "versions", "lanes"):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key)} then, {after.get(key)} now"
    if (run / folder.PROVENANCE).exists():
        then, now = (folder.read_sealed(x / folder.PROVENANCE) for x in (run, workdir))
        for key in ("commit", "python", "platform", "plugins"):
            if then.get(key) != now.get(key):
                yield f"{key}: {then.get(key)} then, {now.get(key)} now"
        if changed := sorted(set(then.get("packages", [])) ^ set(now.get("packages", []))):
            yield f"packages that differ: {listed(changed)}"
