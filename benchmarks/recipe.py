"""What the numbers of `empirical_bayes` were chosen by: python -m benchmarks.recipe best:path=dtd_vitb32.npz

    python -m benchmarks.recipe best:path=dtd_vitb32.npz best:path=stanford_cars_vitb32.npz --classes 20

Every variant is fitted to selections of seeds that no table of results uses (101 to 104), and judged by the
training images that a selection leaves over; it sets itself by the selection's own validation images. No test
image is read. With --classes it is so many of the classes, other ones for each seed. With --novalidation the
selection is alone, the variants are of what judges it then, and zero-shot CLIP is beside them. One line for each:
accuracy, NLL and ECE in the mean over seeds, and seconds of a fit. Of several configs each is left out once: the
variant of the lowest NLL on the others is held against the recipe there.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax

from pini_jax import config as configs
from pini_jax.core import config_file, runtime
from pini_jax.data.support import Support
from pini_jax.evaluate import metrics
from pini_jax.methods import empirical_bayes, gaussian_classes, held_out
from pini_jax.methods.gaussian_classes import Means, Shots
from pini_jax.methods.gaussian_classes import means as class_means
from pini_jax.methods.held_out import Part, parts
from pini_jax.task import run as runs


def validation_alone(support: Support, text: Float[np.ndarray, "c e"]) -> list[Part]:
    """What judges where the selection does not, unless there is nothing else."""
    return parts(support, text)[: 1 if len(support.val_labels) else None]


def unrelated(shots: Shots, text: Float[np.ndarray, "c e"]) -> Means:
    """Classes whose means move each by itself, whatever their texts have in common: G = 0."""
    found = class_means(shots, text)
    return found._replace(kinship=np.eye(len(text)), modes=(found.counts, np.eye(len(text))))


# {what is different: the constants that say so}
VARIANTS: dict[str, dict[Any, dict[str, Any]]] = {
    "as it is": {},
    "closed form alone": {gaussian_classes: {"STRENGTHS": ()}},
    "two pulls to the start": {gaussian_classes: {"STRENGTHS": (1.0, 0.06)}},
    "a hundred steps": {gaussian_classes: {"STEPS": 100}},
    "classes move by themselves": {gaussian_classes: {"means": unrelated}},
    "ten folds": {held_out: {"FOLDS": 10}},
    "a fifth of an unknown image": {held_out: {"UNKNOWN": 0.2}},
    "a whole unknown image": {held_out: {"UNKNOWN": 1.0}},
    "one k, one r": {empirical_bayes: {"WORTHS": (4.0,), "SHRINKAGES": (0.6,)}},
    "more k": {empirical_bayes: {"WORTHS": tuple(2.0**i for i in range(5))}},
    "no extreme r": {empirical_bayes: {"SHRINKAGES": (0.1, 0.3, 0.6, 0.9)}},
    "validation alone": {held_out: {"parts": validation_alone}},
}


def always(parts: Sequence[Part]) -> bool:
    """Whatever images judge, they judge k too."""
    return True


# Of what counts where one image per class is all there is.
ALONE: dict[str, dict[Any, dict[str, Any]]] = {
    "as it is": {},
    "classes left out tell k": {held_out: {"judges_trust": always}},
    **{f"k = {k:.0f}": {empirical_bayes: {"WORTHS": (k,)}} for k in empirical_bayes.WORTHS},
}


class Problem(NamedTuple):
    """What a fit sees, and what judges it."""

    support: Support
    text: Float[np.ndarray, "c e"]
    features: Float[np.ndarray, "n e"]
    labels: Int[np.ndarray, "n"]

    def among(self, classes: Int[np.ndarray, "d"]) -> Problem:
        """The same with some of the classes."""
        known = self.support
        train, val, rest = (np.isin(labels, classes) for labels in (known.labels, known.val_labels, self.labels))
        number = np.searchsorted(classes, np.arange(len(self.text)))
        support = known._replace(
            features=known.features[:, train],
            labels=number[known.labels[train]],
            val_features=known.val_features[val],
            val_labels=number[known.val_labels[val]],
        )
        return Problem(support, self.text[classes], self.features[rest], number[self.labels[rest]])

    def without_validation(self) -> Problem:
        """The same with the selection alone."""
        known = self.support
        return self._replace(
            support=known._replace(val_features=known.val_features[:0], val_labels=known.val_labels[:0])
        )


def problem(shared: runs.Shared, config: configs.Config) -> Problem:
    """A selection, and the training images that it leaves over."""
    run = runs.plan(config, Path(), shared)
    chosen = {record.id for record in (*run.data.train, *run.data.val)}
    rest = [record for record in shared.whole.train if record.id not in chosen]
    text = held_out.unit(np.asarray(shared.task.text.features)[0])
    features = held_out.unit(np.asarray(shared.frozen.images(rest, "features")))
    return Problem(runs.support(run), text, features, runs.labels_of(rest))


def judge(given: Problem) -> tuple[float, float, float]:
    """Accuracy, NLL and ECE."""
    head = empirical_bayes.fit(held_out.parts(given.support, given.text)).head
    return measure(head(given.features), given)


def measure(logits: Float[np.ndarray, "n c"], given: Problem) -> tuple[float, float, float]:
    """Accuracy, NLL and ECE of some logits of the images that are left over."""
    measured = metrics.metrics(log_softmax(logits, axis=1), given.labels)
    return measured.accuracy, measured.nll, measured.ece


Measured = dict[str, Float[np.ndarray, "3"]]  # accuracy, NLL and ECE of every variant


def compare(
    source: str, shots: Sequence[int], seeds: Sequence[int], num_classes: int | None, novalidation: bool
) -> Measured:
    """Prints a line for every number of shots and variant; the means over shots."""
    settings = config_file.load_config(source)
    shared = runs.share(configs.resolve(settings))
    scale = float(np.exp(shared.frozen.theta["logit_scale"]))

    def of_seed(k: int, seed: int) -> Problem:
        whole = problem(shared, configs.resolve(settings.to_dict() | {"shots": k, "seed": seed}))
        chance, size = np.random.default_rng(seed), min(num_classes or len(whole.text), len(whole.text))
        some = whole.among(np.sort(chance.choice(len(whole.text), size, replace=False)))
        return some.without_validation() if novalidation else some

    variants = ALONE if novalidation else VARIANTS
    measured: dict[str, list[np.ndarray]] = {name: [] for name in variants}
    for k in shots:
        problems = [of_seed(k, seed) for seed in seeds]
        if novalidation:
            plain = np.mean([measure(scale * x.features @ x.text.T, x) for x in problems], axis=0)
            print("{:3} shots  {:28} {:.1%}  {:.3f}  {:.3f}".format(k, "zero-shot CLIP", *plain), flush=True)
        for name, changes in variants.items():
            with contextlib.ExitStack() as stack:
                for module, constants in changes.items():
                    stack.enter_context(mock.patch.multiple(module, **constants))
                start = time.perf_counter()
                measured[name].append(np.mean([judge(each) for each in problems], axis=0))
                seconds = (time.perf_counter() - start) / len(seeds)
            accuracy, nll, ece = measured[name][-1]
            print(f"{k:3} shots  {name:28} {accuracy:.1%}  {nll:.3f}  {ece:.3f}  {seconds:.0f} s", flush=True)
    return {name: np.mean(found, axis=0) for name, found in measured.items()}


def chosen_elsewhere(measured: Mapping[str, Measured]) -> Iterator[str]:
    """For every config a line: what the others would choose, and what that is worth there."""
    for source, here in measured.items():
        others = [found for name, found in measured.items() if name != source]
        choice = min(here, key=lambda name: sum(float(found[name][1]) for found in others))
        (own, own_nll, _), (theirs, their_nll, _) = here["as it is"], here[choice]
        yield f"{source}: by the others {choice!r}, {theirs:.1%} {their_nll:.3f}; as it is {own:.1%} {own_nll:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", help="as --config of `pini train`: best:path=PACK.npz")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103, 104])
    parser.add_argument("--classes", type=int, help="how many of them")
    parser.add_argument("--novalidation", action="store_true", help="leave the selection alone")
    given = parser.parse_args()
    runtime.prepare()
    found = {
        source: compare(source, given.shots, given.seeds, given.classes, given.novalidation)
        for source in given.configs
    }
    if len(found) > 1:
        print(*chosen_elsewhere(found), sep="\n")
