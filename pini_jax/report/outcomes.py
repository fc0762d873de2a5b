"""What runs got right, image by image, and the tests between methods that follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pini_jax.evaluate import predictions
from pini_jax.report import statistics
from pini_jax.report.collect import Entry, by_label
from pini_jax.report.statistics import Difference

PLAIN = "zero-shot"
Key = tuple[int, int]  # shots and seed


class Outcome(NamedTuple):
    """Whether zero-shot CLIP and the method, with mean noise, are right on a run's test images.

    Attributes:
        images: their names; of a run that kept no predictions none, and its accuracies stand for them.
    """

    images: tuple[str, ...]
    plain: Float[np.ndarray, "i"]
    correct: Float[np.ndarray, "i"]


class Comparison(NamedTuple):
    """A test between two methods: `first` minus `second`, over what both have.

    Attributes:
        adjusted: the p-value by Holm's correction for all comparisons of the place.
        images: 1 where the test knows seeds alone.
    """

    first: str
    second: str
    difference: Difference
    adjusted: float
    shots: tuple[int, ...]
    seeds: int
    images: int


def read_outcome(entry: Entry) -> Outcome:
    """What a run has kept.

    Raises:
        InputError: its file does not match its hash.
    """
    sha256 = entry.result.get("predictions_sha256")
    if sha256 is None:
        accuracies = entry.result["zero_shot"]["accuracy"], entry.result["test"]["mean"]["accuracy"]
        return Outcome((), *(np.array([x], float) for x in accuracies))
    modes = predictions.read_predictions(entry.folder / predictions.FILE, sha256).by_mode("test")
    plain, own = (modes[name].labelled() for name in ("zero_shot", "mean"))
    right = ((x.predicted == x.label).astype(float) for x in (plain, own))
    return Outcome(tuple(own.path), *right)


def compare(entries: Sequence[Entry]) -> list[Comparison]:
    """Compares all pairs of methods of a place, and each method with zero-shot CLIP."""
    methods = {
        label: {(x.result["shots"], x.result["seed"]): read_outcome(x) for x in group}
        for label, group in by_label(entries).items()
    }
    pairs: list[tuple[str, str, tuple[int, ...], Float[np.ndarray, "s i"]]] = []
    for label, own in methods.items():
        pairs.append((label, PLAIN, *_paired(own, own, plain=True)))
    for (first, own), (second, other) in itertools.combinations(methods.items(), 2):
        if own.keys() & other.keys():
            pairs.append((first, second, *_paired(own, other)))
    found = statistics.differences([pair[-1] for pair in pairs])
    adjusted = statistics.holm([difference.p for difference in found])
    return [
        Comparison(first, second, difference, p, shots, *pair.shape)
        for (first, second, shots, pair), difference, p in zip(pairs, found, adjusted, strict=True)
    ]


def _paired(
    own: Mapping[Key, Outcome], other: Mapping[Key, Outcome], plain: bool = False
) -> tuple[tuple[int, ...], Float[np.ndarray, "s i"]]:
    """The shots that both have, and the differences by seed and image, averaged over these shots."""
    keys = sorted(own.keys() & other.keys())
    images = {outcome.images for key in keys for outcome in (own[key], other[key])}
    by_seed: dict[int, list[Float[np.ndarray, "i"]]] = {}
    for key in keys:
        difference = own[key].correct - (other[key].plain if plain else other[key].correct)
        # Where runs were tested on different images, their accuracies are all that can be paired.
        by_seed.setdefault(key[1], []).append(difference if len(images) == 1 else difference.mean(keepdims=True))
    return tuple(sorted({k for k, _ in keys})), np.stack([np.mean(x, axis=0) for x in by_seed.values()])


def differ(methods: Sequence[str], comparisons: Sequence[Comparison]) -> Bool[np.ndarray, "m m"]:
    """Which methods are told apart, after correction, at the level of `statistics.LEVEL`."""
    found = {frozenset((x.first, x.second)) for x in comparisons if x.adjusted < statistics.LEVEL}
    return np.array([[frozenset((a, b)) in found for b in methods] for a in methods], bool)
