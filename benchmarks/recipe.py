"""What the numbers of `empirical_bayes` were chosen by: python -m benchmarks.recipe best:path=dtd_vitb32.npz

Every variant is fitted to selections of seeds that no table of results uses (101 to 104), and judged by the
training images that a selection leaves over; it sets itself by the selection's own validation images. No test
image is read. One line for each: accuracy, NLL and ECE in the mean over seeds, and seconds of a fit.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.special import log_softmax

from pini_jax import config as configs
from pini_jax.core import config_file, runtime
from pini_jax.evaluate import metrics
from pini_jax.methods import empirical_bayes, gaussian_classes, held_out
from pini_jax.task import run as runs

# {what is different: the constants that say so}
VARIANTS: dict[str, dict[Any, dict[str, Any]]] = {
    "as it is": {},
    "closed form alone": {gaussian_classes: {"STRENGTHS": ()}},
    "ten folds": {held_out: {"FOLDS": 10}},
    "a fifth of an unknown image": {held_out: {"UNKNOWN": 0.2}},
    "a whole unknown image": {held_out: {"UNKNOWN": 1.0}},
    "one k, one r": {empirical_bayes: {"GRID": [(4.0, 0.6)]}},
}


def judge(shared: runs.Shared, config: configs.Config) -> tuple[float, float, float]:
    """Accuracy, NLL and ECE on the training images that the selection leaves over."""
    run = runs.plan(config, Path(), shared)
    chosen = {record.id for record in (*run.data.train, *run.data.val)}
    rest = [record for record in shared.whole.train if record.id not in chosen]
    text = held_out.unit(np.asarray(shared.task.text.features)[0])
    head = empirical_bayes.fit(held_out.parts(runs.support(run), text)).head
    log_p = log_softmax(head(held_out.unit(np.asarray(shared.frozen.images(rest, "features")))), axis=1)
    measured = metrics.metrics(log_p, runs.labels_of(rest))
    return measured.accuracy, measured.nll, measured.ece


def compare(source: str, shots: Sequence[int], seeds: Sequence[int]) -> None:
    """Prints a line for every number of shots and variant."""
    settings = config_file.load_config(source)
    shared = runs.share(configs.resolve(settings))
    for k in shots:
        for name, changes in VARIANTS.items():
            with contextlib.ExitStack() as stack:
                for module, constants in changes.items():
                    stack.enter_context(mock.patch.multiple(module, **constants))
                start = time.perf_counter()
                members = [configs.resolve(settings.to_dict() | {"shots": k, "seed": s}) for s in seeds]
                found = [judge(shared, member) for member in members]
                seconds = (time.perf_counter() - start) / len(seeds)
            accuracy, nll, ece = np.mean(found, axis=0)
            print(f"{k:3} shots  {name:28} {accuracy:.1%}  {nll:.3f}  {ece:.3f}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="as --config of `pini train`: best:path=PACK.npz")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103, 104])
    given = parser.parse_args()
    runtime.prepare()
    compare(given.config, given.shots, given.seeds)
