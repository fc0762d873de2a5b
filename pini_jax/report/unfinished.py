"""How far the runs are that have no result: what a sweep still lacks."""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pini_jax.core.errors import InputError
from pini_jax.core.paths import RESULT, read_object
from pini_jax.data.batches import Batches
from pini_jax.methods.optim import num_steps
from pini_jax.report.collect import is_unpublished, read_settings
from pini_jax.runs import attempts, population
from pini_jax.runs.folder import CONFIG, FAILURE, SELECTION, read_sealed
from pini_jax.train.recorder import METRICS

FAILED, UNDER_WAY, NOT_BEGUN = "failed", "under way", "not begun"


class Unfinished(NamedTuple):
    """A run without a result.

    Attributes:
        steps: of the whole training; 0 where it is not known.
        reason: why it failed.
    """

    folder: Path
    state: str
    step: int = 0
    steps: int = 0
    reason: str = ""


def unfinished_runs(folders: Sequence[Path]) -> list[Unfinished]:
    """All below some folders, begun or merely planned in a population.json."""
    begun = [
        file.parent
        for top in folders
        for file in sorted(top.glob(f"**/{CONFIG}"))
        if not is_unpublished(file.relative_to(top))
    ]
    planned = {
        file.parent / name: None
        for top in folders
        for file in sorted(top.glob(f"**/{population.FILE}"))
        for name in read_object(file)
    }
    lacking = [run for run in planned | dict.fromkeys(begun) if not (run / RESULT).exists()]
    return [_state(run) for run in lacking if run in planned or _is_run(run)]


def _is_run(folder: Path) -> bool:
    """Whether its config.json is a run's; those of models have no method."""
    return "method" in read_object(folder / CONFIG)


def _state(folder: Path) -> Unfinished:
    place = _place(folder)
    if (place / FAILURE).exists():
        return Unfinished(folder, FAILED, reason=str(read_object(place / FAILURE).get("reason", "")))
    if not (place / CONFIG).exists():
        return Unfinished(folder, NOT_BEGUN)
    return Unfinished(folder, UNDER_WAY, _last_step(place / METRICS), _num_steps(place))


def _place(folder: Path) -> Path:
    """Where a run is trained: its own folder, or a worker's newest attempt at it."""
    tries = sorted(folder.parent.glob(f"{attempts.OWN}/attempts/*/{glob.escape(folder.name)}"))
    return folder if (folder / CONFIG).exists() or not tries else tries[-1]


def _last_step(path: Path) -> int:
    """Of the last whole line."""
    for line in reversed(path.read_text(errors="replace").splitlines() if path.exists() else []):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return int(json.loads(line)["step"])
    return 0


def _num_steps(folder: Path) -> int:
    """As the run's own plan has it; 0 before its images are selected, or where the selection is damaged."""
    if not (folder / SELECTION).exists():
        return 0
    config = read_settings(folder, ("batch_size", "views", "seed", "shots", "optim.epochs"))
    try:
        images = len(read_sealed(folder / SELECTION)["train"])
    except InputError:  # the run names it, and makes it again
        return 0
    batches = Batches(images, min(config["batch_size"], images), config["views"], config["seed"])
    per_shot = config.get("options.steps_per_shot", 0)
    return num_steps(config["optim.epochs"], batches.per_epoch, per_shot, config["shots"])
