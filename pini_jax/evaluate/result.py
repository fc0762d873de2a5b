"""What a run has learned: its predictions, and all that is measured of them."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pini_jax.config import Config
from pini_jax.core.errors import InputError
from pini_jax.data.datasets.records import Record
from pini_jax.evaluate import bootstrap, calibration, cross_fit, doubt, metrics, prediction, predictions
from pini_jax.evaluate.prediction import MODES, Drawn, Predictions
from pini_jax.evaluate.predictions import Answers, Kept
from pini_jax.methods.method import Method, Text, Variables
from pini_jax.methods.zero_shot import ZeroShot
from pini_jax.task.frozen import Frozen, Images
from pini_jax.task.run import Run, labels_of, to_classify
from pini_jax.task.task import Task

PLAIN = ZeroShot()
LOG = logging.getLogger(__name__)
OWN = ("val", "test", "held_out")  # splits of the task that is trained on; all others are unseen
OF_TEST = ("zero_shot", "test", "information", "draws", "reliability", "intervals", "doubt")


class Trained(NamedTuple):
    """A method with what it has learned, and the frozen half."""

    method: Method
    variables: Variables
    frozen: Frozen
    config: Config


class Split(NamedTuple):
    """Images to classify, independent of what a method has learned.

    Attributes:
        images: as the method reads them.
        plain: the predictions of zero-shot CLIP.
    """

    records: Sequence[Record]
    images: Images
    plain: Predictions


class Predicted(NamedTuple):
    """Images with their predictions by mode."""

    records: Sequence[Record]
    by_mode: Mapping[str, Predictions]


# ------------------------------------------------------------------------------------------------ predictions


def open_splits(runs: Sequence[Run]) -> dict[str, Split]:
    """The splits that runs with the same frozen half share, by name: at least those of the test."""
    splits = [to_classify(run) for run in runs]
    return {
        name: open_split(runs[0].shared.method, runs[0].shared.frozen, _task(runs[0], name), records)
        for name, records in (splits[0] if splits else {}).items()
        if all(records == others.get(name) for others in splits[1:])
    }


def open_split(method: Method, frozen: Frozen, task: Task, records: Sequence[Record]) -> Split:
    """Opens images and classifies them with zero-shot CLIP."""
    features, reads = frozen.images(records, "features"), method.traits.reads
    images = features if reads == "features" else frozen.images(records, reads, kept=False)
    given = PLAIN, Variables({}), frozen.theta, task.zero_shot, features, "mean"
    return Split(records, images, prediction.predict(*given, num_draws=1, seed=0, mesh=frozen.mesh))


def _task(run: Run, split: str) -> Task:
    return run.shared.unseen.get(split, run.shared.task)


def predict_splits(run: Run, variables: Variables, common: Mapping[str, Split]) -> Kept:
    """All predictions of zero-shot CLIP and of the method, and the temperatures of the modes.

    Args:
        common: splits that are open already, by name; the others are opened here.
    """
    shared = run.shared
    trained = Trained(shared.method, variables, shared.frozen, run.config)
    tasks = {name: _task(run, name) for name in to_classify(run)}
    splits = {
        name: common[name] if name in common else open_split(shared.method, shared.frozen, tasks[name], records)
        for name, records in to_classify(run).items()
    }
    # What is drawn of a task's texts serves all of its splits.
    drawn = {id(task): _draw(trained, task.text) for task in (shared.task, *shared.unseen.values())}
    found = {name: _answer(trained, drawn[id(tasks[name])], split) for name, split in splits.items()}
    if cross_fit.is_due(run) and (folds := _cross_fitted(run, trained)):
        found["held_out"] = _joined([*folds, *(found[name] for name in found if name == "val")])
    temperatures = _temperatures(found.get("held_out", found.get("val")))
    if shared.method.traits.sets_itself and not shared.frozen.has_texts:
        # Fitted to held-out images already; and a fit of fewer shots, whose texts they are too, is less sure.
        temperatures |= dict.fromkeys(MODES, 1.0)
    names = {name: _task(run, name).data.class_names for name in found}
    answers = {name: answers_of(x, temperatures) for name, x in found.items()}
    return Kept(answers, names)


def predict_split(trained: Trained, task: Task, records: Sequence[Record]) -> Predicted:
    """The predictions of zero-shot CLIP and of the method for some images."""
    split = open_split(trained.method, trained.frozen, task, records)
    return _answer(trained, _draw(trained, task.text), split)


def _draw(trained: Trained, text: Text) -> dict[str, Drawn]:
    """By mode; what draws nothing predicts once for all modes."""
    method, variables, frozen, config = trained
    modes = MODES if method.traits.is_random else MODES[:1]
    given = method, variables, frozen.theta, text
    return {mode: prediction.draw(*given, mode, config.num_draws, config.seed) for mode in modes}


def _answer(trained: Trained, drawn: Mapping[str, Drawn], split: Split) -> Predicted:
    method, variables, frozen, _ = trained
    own = {
        mode: prediction.predict_drawn(method, variables, of_mode, split.images, mesh=frozen.mesh)
        for mode, of_mode in drawn.items()
    }
    return Predicted(split.records, {"zero_shot": split.plain} | own)


def _cross_fitted(run: Run, trained: Trained) -> list[Predicted]:
    """The selection, each fold by a fit without it; nothing where the method refuses so few images."""
    train = run.data.train
    try:
        folds = list(cross_fit.fits(run))
    except InputError as error:
        LOG.warning("the selection calibrates nothing: %s", error)
        return []
    return [
        predict_split(trained._replace(variables=fold.variables), fold.task, [train[i] for i in fold.images])
        for fold in folds
    ]


def _joined(parts: Sequence[Predicted]) -> Predicted:
    def join(mode: str) -> Predictions:
        return Predictions(*map(np.concatenate, zip(*(part.by_mode[mode] for part in parts), strict=True)))

    return Predicted([x for part in parts for x in part.records], {mode: join(mode) for mode in parts[0].by_mode})


def _temperatures(held_out: Predicted | None) -> dict[str, float]:
    """By mode; 1 where nothing is held out."""
    if held_out is None:
        return dict.fromkeys(predictions.ALL_MODES, 1.0)
    labels = labels_of(held_out.records)
    own = {mode: calibration.temperature(x.log_probabilities, labels) for mode, x in held_out.by_mode.items()}
    return dict.fromkeys(MODES, own["mean"]) | own


def answers_of(found: Predicted, temperatures: Mapping[str, float]) -> dict[str, Answers]:
    """What is stored of predictions, by mode."""
    ids, labels = [record.id for record in found.records], labels_of(found.records)
    return {mode: predictions.answers(ids, labels, x, temperatures[mode]) for mode, x in found.by_mode.items()}


# ---------------------------------------------------------------------------------------------- what is measured


def measure_splits(kept: Kept) -> dict[str, Any]:
    """Metrics of zero-shot CLIP and of the method on test images, validation images and unseen tasks.

    Where there are no test images, as in `Classifier.fit`, what is reported of them is None.
    """
    result: dict[str, Any] = dict.fromkeys(OF_TEST)
    if "test" in kept.answers:
        result |= measure_test(kept, "test")
        result["intervals"] = {mode: bootstrap.intervals(x) for mode, x in kept.answers["test"].items()}
        result["doubt"] = doubt.doubt_record(kept)
    result["val"] = _metrics_of_modes(kept, "val") if "val" in kept.answers else None
    if "val" in kept.answers:
        result["val_zero_shot"] = metrics.measure(kept.answers["val"]["zero_shot"])._asdict()
    unseen = {
        name: {"num_classes": len(kept.class_names[name]), "num_test": len(kept.answers[name]["mean"].label)}
        | measure_test(kept, name)
        for name in kept.answers
        if name not in OWN
    }
    if unseen:
        result["unseen"] = unseen
    if "new" in unseen:
        result["harmonic_mean"] = harmonic_means(result, unseen["new"])
    return result


def measure_test(kept: Kept, split: str) -> dict[str, Any]:
    """Everything that is reported about test images."""
    by_mode = kept.by_mode(split)
    plain = by_mode["zero_shot"]
    draws = metrics.gains_of_draws(by_mode["mean"], by_mode["marginal"])
    return {
        "zero_shot": metrics.measure(plain)._asdict(),
        "test": _metrics_of_modes(kept, split),
        "information": metrics.measure_information(plain, by_mode["marginal"])._asdict(),
        "draws": {name: gain._asdict() for name, gain in draws._asdict().items()},
        "reliability": {mode: reliability_of(answers) for mode, answers in by_mode.items()},
    }


def _metrics_of_modes(kept: Kept, split: str) -> dict[str, Any]:
    found = {mode: metrics.measure(answers)._asdict() for mode, answers in kept.answers[split].items()}
    return {mode: found.get(mode, found["mean"]) for mode in MODES}


def reliability_of(answers: Answers) -> dict[str, Any]:
    """The bins of a reliability diagram."""
    answers = answers.labelled()
    confidence = np.exp(np.ascontiguousarray(answers.log_probabilities[:, 0]))
    return metrics.reliability(confidence, answers.predicted == answers.label)._asdict()


def harmonic_means(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """2 / (1 / base + 1 / new) of the accuracies, for zero-shot CLIP and each prediction mode."""
    pairs = {"zero_shot": (base["zero_shot"], new["zero_shot"])}
    pairs |= {mode: (base["test"][mode], new["test"][mode]) for mode in MODES}
    return {name: statistics.harmonic_mean([x["accuracy"] for x in pair]) for name, pair in pairs.items()}
