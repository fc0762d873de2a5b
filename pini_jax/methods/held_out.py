"""What images say that a head has not seen: which heads count, at what temperature, and how much noise they bear.

Shapes: n held-out images, c classes, g candidates.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # which loads its parts at their first use: half a second
from jaxtyping import Float, Int
from scipy.special import log_softmax

from pini_jax.core import stop
from pini_jax.core.shapes import Numbers
from pini_jax.data.support import Support
from pini_jax.methods.gaussian_classes import TINY, Shots

FOLDS = 5
UNKNOWN = 0.5  # images of no known class beside those held out, as Jeffreys has it: no weight is infinite
NEGLIGIBLE = 1e-3  # share of a candidate that is left out, where the best one's is 1
COST_OF_A_DRAW = 0.003  # accuracy that is expected to be lost: a third of the point that it may cost
PAIRS = 4  # of antithetic draws that estimate it
HALVINGS = 12


class Part(NamedTuple):
    """Shots and unit texts from which heads are made, and unit features of other images, which judge them.

    Attributes:
        shots: with all views of the images; and, where these have others, with their own alone.
        text: 0 where nobody knows the texts: it says nothing.
    """

    shots: tuple[Shots, ...]
    text: Float[np.ndarray, "c e"]
    features: Float[np.ndarray, "n e"]
    labels: Int[np.ndarray, "n"]


def parts(support: Support, text: Float[np.ndarray, "c e"]) -> list[Part]:
    """First the whole selection with the validation images; then it without each fold, which its images judge.

    Folds go over the shots of every class. Where every class has one image, validation images take the selection's
    place, one of each class, and it judges; without validation images, folds leave out classes. Where texts are
    not known, no class is left out, and images of one class alone do not judge. Copies of an image count once.
    """
    support = _without_copies(support)
    text = text if support.has_texts else np.zeros_like(text)
    width = np.shape(support.features)[-1]
    shots = _shots(support.features, support.labels)
    whole = Part(shots, text, unit(support.val_features).reshape(-1, width), np.asarray(support.val_labels))
    turned = np.bincount(support.labels).max() == 1 and len(support.val_labels)
    return [whole, *(_turned(support, text) if turned else _without_folds(support, shots, text))]


def _without_copies(support: Support) -> Support:
    """The first of all images with the same features and label: the others would judge what they have shaped."""
    own, labels = np.asarray(support.features)[0], np.asarray(support.labels)
    val, val_labels = np.asarray(support.val_features).reshape(-1, own.shape[1]), np.asarray(support.val_labels)
    both = np.column_stack([np.concatenate([own, val]), np.concatenate([labels, val_labels])])
    first = np.sort(np.unique(both, axis=0, return_index=True)[1])
    chosen, held = first[first < len(own)], first[first >= len(own)] - len(own)
    return support._replace(
        features=np.asarray(support.features)[:, chosen],
        labels=labels[chosen],
        val_features=val[held],
        val_labels=val_labels[held],
    )


def _turned(support: Support, text: Float[np.ndarray, "c e"]) -> Iterator[Part]:
    """One validation image of each class, which the selection judges; none if they cannot stand for the texts."""
    labels, first = np.unique(support.val_labels, return_index=True)
    if support.has_texts or len(first) == len(text):
        own = _of_views(np.asarray(support.val_features)[None, first], labels)
        yield _part(support, (own,) * _ways(support.features), text, np.argsort(support.labels))


def _without_folds(support: Support, shots: tuple[Shots, ...], text: Float[np.ndarray, "c e"]) -> Iterator[Part]:
    """The selection without each fold, which judges; where no text says what it is, a class's only image stays."""
    labels = np.asarray(support.labels)
    counts, number = np.bincount(labels), np.arange(len(labels))
    fold = folds(labels, max(2, min(FOLDS, counts.max())))
    may_go = counts[labels] > (0 if support.has_texts else 1)
    if not support.has_texts and len(np.unique(labels[may_go])) < 2:
        return
    for i in np.unique(fold[may_go]):
        out = number[may_go & (fold == i)]
        yield _part(support, tuple(each.take(~np.isin(each.images, out)) for each in shots), text, out)


def _part(
    support: Support, shots: tuple[Shots, ...], text: Float[np.ndarray, "c e"], judges: Int[np.ndarray, "n"]
) -> Part:
    """Shots that images of the selection judge, each by its first view."""
    return Part(shots, text, unit(np.asarray(support.features)[0, judges]), np.asarray(support.labels)[judges])


def _shots(features: Float[Numbers, "v m e"], labels: Int[Numbers, "m"]) -> tuple[Shots, ...]:
    """With every view of every image; and with the first alone, where there are several."""
    return tuple(_of_views(each, labels) for each in (features, features[:1])[: _ways(features)])


def _ways(features: Float[Numbers, "v m e"]) -> int:
    return min(len(features), 2)


def _of_views(features: Float[Numbers, "v m e"], labels: Int[Numbers, "m"]) -> Shots:
    views, images, width = np.shape(features)
    weights, number = np.full(views * images, 1 / views), np.tile(np.arange(images), views)
    return Shots(unit(features).reshape(-1, width), np.tile(labels, views), weights, number)


def unit(x: Numbers) -> Float[np.ndarray, "*b e"]:
    """x / |x| along the last axis, in float64."""
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def folds(labels: Int[np.ndarray, "m"], num: int) -> Int[np.ndarray, "m"]:
    """The images of a class in turn, each class beginning at its own fold."""
    place = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[rows] = label + np.arange(len(rows))
    return place % num


def judges_trust(parts: Sequence[Part]) -> bool:
    """Whether some image is of a class that has shots: others do not tell how far shots are to be trusted."""
    return any(np.isin(part.labels, part.shots[0].labels).any() for part in parts)


def average(
    candidates: Iterable[Float[np.ndarray, "n c"]],
    other: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, "n"],
    groups: Int[np.ndarray, "g"],
) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "g+1"]]:
    """Candidates' shares, softmax(-NLL in nats), each blended with the other; and the weights of all logits.

    They are asked for one at a time, since those of many classes are large.

    Args:
        groups: of the candidates; images do not tell one group from another, and all count the same.

    Raises:
        Stopped: somebody asked for it; the next call begins anew.
    """
    blends = []
    for logits in candidates:
        stop.raise_if_requested()
        blends.append(_blend([logits, other], labels))
    share = _shares(np.array([nll for _, nll in blends]), groups)
    pairs = np.array([weights for weights, _ in blends])
    return share, np.append(share * pairs[:, 0], share @ pairs[:, 1])


def _shares(nats: Float[np.ndarray, "g"], groups: Int[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
    """softmax(-nats) within a group, and as much for every group."""
    found, numbers = np.zeros_like(nats), np.unique(groups)
    for own in (groups == number for number in numbers):
        share = np.exp(nats[own].min() - nats[own])
        share[share < NEGLIGIBLE] = 0
        found[own] = share / share.sum()
    return found / len(numbers)


def _blend(
    logits: Sequence[Float[np.ndarray, "n c"]], labels: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "2"], float]:
    """The weights >= 0 with which the sum of several logits has the lowest NLL, and that NLL: convex."""
    spread = np.array([x.std(1).mean() for x in logits])
    sizes = np.where(spread > TINY, spread, np.inf)  # what says nothing gets no weight
    units = [x / size for x, size in zip(logits, sizes, strict=True)]
    images, classes = units[0].shape
    target = np.full((images, classes), UNKNOWN / images / classes)
    target[np.arange(images), labels] += 1

    def nll(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(sum(w * x for w, x in zip(weights, units, strict=True)), 1)
        wrong = np.exp(log_p) * (1 + UNKNOWN / images) - target
        return -(target * log_p).sum(), np.array([(wrong * x).sum() for x in units])

    solution = scipy.optimize.minimize(
        nll,
        np.ones(len(units)),
        jac=True,
        bounds=[(0, None)] * len(units),
        method="L-BFGS-B",
        options={"ftol": 1e-12, "gtol": 1e-7 * images},
    )
    return solution.x / sizes, float(solution.fun)


def with_error(x: Float[np.ndarray, "n"]) -> float:
    """Mean plus standard error s / sqrt(n), s^2 = sum_i (x_i - mean)^2 / (n - 1); infinite for n = 1."""
    return float(x.mean() + x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else np.inf


def draw_size(
    logits: Float[np.ndarray, "n c"], lengths: Float[np.ndarray, "n"], labels: Int[np.ndarray, "n"]
) -> tuple[float, float]:
    """How large the noise of a draw may be, and the temperature of the lowest NLL with it.

    The noise adds size length_i z_c to the logits. By the probabilities themselves one draw is expected to cost
    E_i[max_c p_ic - p_i,drawn] of accuracy, which is as smooth for ten images as for thousands; together with its
    standard error that may be COST_OF_A_DRAW.
    """
    own, p = np.arange(len(labels)), np.exp(log_softmax(logits, 1))
    chance = np.random.default_rng(0)
    half = [lengths[:, None] * chance.standard_normal(logits.shape) for _ in range(PAIRS)]

    def noises() -> Iterator[Float[np.ndarray, "n c"]]:
        yield from half
        yield from (-noise for noise in half)

    def cost(size: float) -> float:
        lost = np.mean([p.max(1) - p[own, (logits + size * noise).argmax(1)] for noise in noises()], 0)
        return with_error(lost)

    low, high = 0.0, 10 * logits.std(1).mean() / max(lengths.mean(), TINY)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= COST_OF_A_DRAW else (low, middle)

    def nll(log_temperature: float) -> float:
        drawn = (log_softmax(np.exp(log_temperature) * (logits + low * noise), 1) for noise in noises())
        log_p = functools.reduce(np.logaddexp, drawn) - np.log(2 * PAIRS)  # one at a time: each may be large
        return -log_p[own, labels].sum() - UNKNOWN * log_p.mean()

    solution = scipy.optimize.minimize_scalar(nll, bounds=(-0.7, 0.7), method="bounded", options={"xatol": 1e-3})
    return low, float(np.exp(solution.x))
