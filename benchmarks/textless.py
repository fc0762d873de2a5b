"""Doubt on features without texts: python -m benchmarks.textless dtd_vitb32.npz --seeds 4 5 6

`Classifier` is fitted to few-shot selections of a pack's features, without the pack's texts, and measured on its
test images: accuracy, NLL and ECE, raw → calibrated, and how often a set of plausible classes at 90 % holds the
true one, in the mean over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from pini_jax import Classifier
from pini_jax.core import runtime
from pini_jax.data import selection
from pini_jax.data.datasets import packs
from pini_jax.data.datasets.packs import Pack
from pini_jax.evaluate import metrics, prediction
from pini_jax.task.run import labels_of

METHODS = ("empirical_bayes", "gda", "tip_adapter", "task_res")


class Measured(NamedTuple):
    """Of test images."""

    accuracy: float
    nll: float
    calibrated_nll: float
    ece: float
    calibrated_ece: float
    coverage: float


def measure(pack: Pack, method: str, shots: int, seed: int) -> Measured:
    """Of a classifier that was fitted to one selection."""
    data = pack.findings.accepted()
    train = selection.select_from_pack(data, shots, seed).train
    fitted = Classifier(method=method, seed=seed).fit(*_arrays(pack, train))
    features, labels = _arrays(pack, data.test)
    trained = fitted.trained_
    given = trained.method, trained.variables, trained.frozen.theta, trained.text, features
    log_p = prediction.predict(*given, "mean", num_draws=1, seed=0).log_probabilities
    doubt = trained.doubt()
    raw, own = (metrics.metrics(log_softmax(log_p / t, axis=1), labels) for t in (1.0, doubt.temperature))
    covered = doubt.plausible(doubt.calibrated(log_p))[np.arange(len(labels)), labels].mean()
    return Measured(own.accuracy, raw.nll, own.nll, raw.ece, own.ece, float(covered))


def _arrays(pack: Pack, records: Sequence) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([pack.images[record.id] for record in records]), labels_of(records)


def compare(path: Path, methods: Sequence[str], shots: Sequence[int], seeds: Sequence[int]) -> None:
    """Prints a line for every method and number of shots."""
    pack = packs.load_pack(path)
    for method in methods:
        for k in shots:
            if method == "gda" and k == 1:
                continue  # it needs two images of a class
            found = Measured(*np.mean([measure(pack, method, k, seed) for seed in seeds], axis=0))
            nll = f"{found.nll:.3f} → {found.calibrated_nll:.3f}"
            ece = f"{found.ece:.3f} → {found.calibrated_ece:.3f}"
            row = [path.stem, method, k, f"{found.accuracy:.1%}", nll, ece, f"{found.coverage:.3f}"]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packs", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6])
    given = parser.parse_args()
    runtime.prepare()
    for path in given.packs:
        compare(path, given.methods, given.shots, given.seeds)
