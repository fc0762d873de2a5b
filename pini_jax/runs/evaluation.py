"""A finished run on other images: predictions of them, and what is measured, without training."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import mesh as meshes
from pini_jax.core import paths
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import sources
from pini_jax.data.datasets.records import Dataset, Record
from pini_jax.evaluate import doubt, predictions, rejection, result
from pini_jax.evaluate.predictions import Kept
from pini_jax.evaluate.result import Trained
from pini_jax.runs import folder, injector
from pini_jax.task import frozen as frozen_halves
from pini_jax.task import run as runs
from pini_jax.task import task as tasks
from pini_jax.task.frozen import Frozen, FrozenPack
from pini_jax.task.task import Task


def evaluate(workdir: Path, dataset: str = "", clip: str = "") -> tuple[Path, dict[str, Any]]:
    """Predicts the test images of a dataset among the classes of a run, and returns what it writes, and where.

    `predictions.parquet` and `evaluation.json` are written to a folder of the dataset's name in `evaluations/` of
    the run. Images of classes that the run does not know, by their names, have the label -1: they count for
    nothing but for how well they are told from the others.

    Args:
        dataset: as in a config; "" for the run's own.
        clip: where the weights are now, if not where they were.

    Raises:
        InputError: there is no finished run, or the weights or the data cannot be used.
    """
    exported = injector.load_injector(workdir / injector.FILE)
    config = dataclasses.replace(exported.config, clip=clip or exported.config.clip)
    name = dataset or config.dataset
    data = runs.open_dataset(config, name)[0]
    trained, task = _load(config, exported, data, name)
    found = result.predict_split(trained, task, relabelled(data, exported.class_names))
    temperatures = {mode: exported.doubts.get(mode, doubt.NO_DOUBT).temperature for mode in predictions.ALL_MODES}
    answers, names = result.answers_of(found, temperatures), exported.class_names
    kept = Kept({"test": answers}, {"test": names})
    place = workdir / "evaluations" / re.sub(r"[^\w.-]+", "_", name)
    place.mkdir(parents=True, exist_ok=True)
    sha256 = predictions.write_predictions(place / predictions.FILE, kept)
    measured = {"dataset": name, "predictions_sha256": sha256}
    measured |= measure_answers(kept, workdir, exported.doubts)
    paths.write_json(place / "evaluation.json", folder.seal(measured))
    return place, measured


def _load(config: Config, exported: injector.Exported, data: Dataset, name: str) -> tuple[Trained, Task]:
    """The run's method and texts, over a frozen half that has the images."""
    mesh = meshes.make_mesh(config.model_shards)
    frozen = frozen_halves.load_frozen(config, mesh)
    if frozen.fingerprint != exported.clip_sha256:
        raise InputError(f"the run was trained on others than {config.clip or config.dataset} holds")
    method = configs.make_method(config, frozen.towers)
    task = Task(data, *tasks.texts(config, frozen, exported.class_names, config.dataset))
    if name != config.dataset:
        frozen = _with_images(frozen, config, name)
    return Trained(method, exported.variables, frozen, config), task


def _with_images(frozen: Frozen, config: Config, name: str) -> Frozen:
    """Images of a dataset for what reads them: towers read all, a pack has its own."""
    if sources.has_images(name) != sources.has_images(config.dataset):
        raise InputError(f"{name}: a run on images takes images, and one on a feature pack another pack")
    if not isinstance(frozen, FrozenPack):
        return frozen
    other = frozen_halves.load_frozen(dataclasses.replace(config, dataset=name), frozen.mesh)
    assert isinstance(other, FrozenPack)
    if other.text.shape[1] != frozen.text.shape[1]:
        raise InputError(f"{name} has features of another width: they are not of the run's CLIP")
    return dataclasses.replace(frozen, pack=frozen.pack._replace(images=other.pack.images))


def relabelled(data: Dataset, class_names: Sequence[str]) -> list[Record]:
    """The test images, labelled with the classes of a run; -1 for classes that it does not know."""
    labels = {name: label for label, name in enumerate(class_names)}
    return [record._replace(label=labels.get(data.class_names[record.label], -1)) for record in data.test]


def _own_test(workdir: Path) -> Kept:
    """What the run answered for its own test images."""
    own = folder.read_sealed(workdir / paths.RESULT)
    return predictions.read_predictions(workdir / predictions.FILE, own.get("predictions_sha256") or "")


def measure_answers(kept: Kept, workdir: Path, doubts: Mapping[str, doubt.Doubt]) -> dict[str, Any]:
    """Metrics of labelled images, and how well the others are told from images of known classes.

    Args:
        workdir: of the run, whose own test images are the known ones where no image here has a label.
    """
    labels = kept.answers["test"]["mean"].label
    found: dict[str, Any] = {"images": len(labels), "unknown": int((labels < 0).sum())}
    if (labels >= 0).any():
        found |= result.measure_test(kept, "test")
    if (labels < 0).any():
        source = kept if (labels >= 0).any() else _own_test(workdir)
        known = {mode: x.labelled() for mode, x in source.by_mode("test").items()}
        unknown = {mode: x.unlabelled() for mode, x in kept.by_mode("test").items()}
        found["rejection"] = {
            mode: rejection.measure_scores(known[mode], unknown[mode], doubts.get(mode, doubt.NO_DOUBT).known)
            for mode in known
        }
    return found
