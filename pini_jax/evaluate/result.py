"""What a run has learned, measured: on its test and validation images, and on what it has not seen."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pini_jax.evaluate import metrics, prediction
from pini_jax.evaluate.prediction import MODES, Predictions
from pini_jax.methods.method import Method, Text, Variables
from pini_jax.methods.zero_shot import ZeroShot
from pini_jax.task.frozen import Images
from pini_jax.task.run import Run, labels_of, to_classify
from pini_jax.task.task import Task

PLAIN = ZeroShot()
OF_TEST = ("zero_shot", "test", "information", "reliability")


class Split(NamedTuple):
    """Images to classify, as the method and plain CLIP read them, and their labels."""

    images: Images
    features: Images
    labels: Int[np.ndarray, "b"]


def evaluate(run: Run, variables: Variables) -> dict[str, Any]:
    """Metrics of plain CLIP and of the method on the test images, on the validation images, and on other tasks.

    Where there are no test images, as in `Classifier.fit`, what is reported of them is None.
    """
    splits = read_splits(run)
    test = splits.get("test")
    result = measure(run, variables, run.shared.task, test) if test else dict.fromkeys(OF_TEST)
    val = splits.get("val")
    result["val"] = val and {
        mode: metrics_of(predicted, val)
        for mode, predicted in by_mode(run, variables, run.shared.task, val).items()
    }
    unseen = {
        name: {"num_classes": len(task.data.class_names), "num_test": len(task.data.test)}
        | measure(run, variables, task, splits[name])
        for name, task in run.shared.unseen.items()
    }
    if unseen:
        result["unseen"] = unseen
    if "new" in unseen:
        result["harmonic_mean"] = harmonic_means(result, unseen["new"])
    return result


def read_splits(run: Run) -> dict[str, Split]:
    """All that is classified."""
    frozen, reads, splits = run.shared.frozen, run.shared.method.traits.reads, {}
    for name, images in to_classify(run).items():
        features = frozen.images(images, "features")
        read = features if reads == "features" else frozen.images(images, reads, kept=False)
        splits[name] = Split(read, features, labels_of(images))
    return splits


def measure(run: Run, variables: Variables, task: Task, split: Split) -> dict[str, Any]:
    """All that is reported of test images: `OF_TEST`."""
    zero_shot = predict_split(run, PLAIN, Variables({}), task.zero_shot, split.features, "mean")
    predicted = by_mode(run, variables, task, split)
    plain, expected = zero_shot.log_probabilities, predicted["marginal"].expected
    return {
        "zero_shot": metrics_of(zero_shot, split),
        "test": {mode: metrics_of(of_mode, split) for mode, of_mode in predicted.items()},
        "information": metrics.information(plain, expected, split.labels)._asdict(),
        "reliability": {
            name: reliability_of(of_name, split.labels)
            for name, of_name in {"zero_shot": zero_shot, **predicted}.items()
        },
    }


def by_mode(run: Run, variables: Variables, task: Task, split: Split) -> dict[str, Predictions]:
    """Of the method; what draws nothing predicts once for all modes."""
    method = run.shared.method
    modes = MODES if method.traits.is_random else MODES[:1]
    predicted = {mode: predict_split(run, method, variables, task.text, split.images, mode) for mode in modes}
    return dict.fromkeys(MODES, predicted["mean"]) | predicted


def predict_split(
    run: Run, method: Method, variables: Variables, text: Text, images: Images, mode: str
) -> Predictions:
    """Of a split, with the run's draws and devices."""
    theta, config = run.shared.frozen.theta, run.config
    return prediction.predict(
        *(method, variables, theta, text, images, mode),
        *(config.num_draws, config.seed),
        mesh=run.shared.mesh,
    )


def metrics_of(predicted: Predictions, split: Split) -> dict[str, Any]:
    """Metrics of a split."""
    return metrics.metrics(predicted.log_probabilities, split.labels)._asdict()


def reliability_of(predicted: Predictions, labels: Int[np.ndarray, "b"]) -> dict[str, Any]:
    """What a reliability diagram shows."""
    log_p: Float[np.ndarray, "b c"] = predicted.log_probabilities
    return metrics.reliability(np.exp(log_p.max(-1)), log_p.argmax(-1) == labels)._asdict()


def harmonic_means(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """2 / (1 / base + 1 / new) of the accuracies, of plain CLIP and by prediction mode."""
    pairs = {"zero_shot": (base["zero_shot"], new["zero_shot"])}
    pairs |= {mode: (base["test"][mode], new["test"][mode]) for mode in MODES}
    return {name: statistics.harmonic_mean([x["accuracy"] for x in pair]) for name, pair in pairs.items()}
