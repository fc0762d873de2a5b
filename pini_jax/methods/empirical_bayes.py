"""Empirical Bayes: noise whose mean, size and every setting follow from what held-out images say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.products import einsum
from pini_jax.core.shapes import Parameters
from pini_jax.core.threads import side_by_side
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods import gaussian_classes, held_out
from pini_jax.methods.gaussian_classes import Covariance, Head, Shots
from pini_jax.methods.held_out import Part
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean
from pini_jax.noise.gaussian import Gaussian

WORTHS = (1.0, 4.0, 16.0)  # k, of a text
OF_THE_MIDDLE = (0.25, 1.0, 4.0)  # k where no text is known: of the middle of all classes
SHRINKAGES = (0.01, 0.1, 0.3, 0.6, 0.9, 0.99)  # r


@dataclasses.dataclass(frozen=True)
class EmpiricalBayes(Method):
    """logits_c = (f - g) . (t_c + mu_c + eta F z) + b_c, with no settings to choose.

    f and t are of unit length, g is the mean over classes of the images, z ~ N(0, I) is drawn per class, S is
    the covariance within classes and F F^T = S^-1 / e. mu and b are those of a head that is an average of heads,
    weighed by images that these have not seen:

    1. Classes are Gaussians whose means have a prior from the texts (`methods.gaussian_classes`). Every pair of k,
       what a text is worth in images, and r, shrinkage of S, is a candidate. A candidate and zero-shot CLIP are
       added with the weights >= 0 of the lowest held-out NLL: trust in the text and temperature at once. The sums
       are averaged with weights exp(-held-out NLL in nats). Where images have views besides their own, every pair
       is a candidate with them and one without.
    2. From there W is learned under image noise N(0, S), exactly as large as images of a class vary, and a pull to
       the start; the strengths of the pull are candidates, beside which the start stands, as in 1.
    3. eta is the largest at which one draw is expected to lose 0.3 points of accuracy, and the temperature is
       that of the lowest held-out NLL of the marginal: noise is large in training and small in prediction.

    Held out are the validation images, and the selection's own in turn: five folds over shots. Where every class
    has one image, validation images and selection change places, or, without validation, two folds go over
    classes: these do not tell k, of which all values count the same then. All candidates are linear in f, and so
    are their averages. Solved on the host in float64, by SciPy.

    Where the texts are not known they count for nothing: t = 0, all classes have the same prior mean, and
    `gaussian_classes.lone_head` takes the place of zero-shot CLIP. It is all there is where no two classes have
    more than one image.

    Source: this project, for noise as in https://arxiv.org/abs/2412.10817; the bound under image noise has the
    form of Wang et al. 2019, https://arxiv.org/abs/1909.12220.
    """

    paper_of_images: ClassVar[Mapping[str, Any]] = {"views": 8, "augment.scale": (0.7, 1.0), "augment.flip": 0.0}
    search: ClassVar[Search] = {}

    traits = Traits(
        starts_from_support=True,
        sets_itself=True,
        is_fitted=True,
        is_per_class=True,
        is_random=True,
        moves_images=True,
    )

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Solves for the noise; without images there is none, and the logits are zero-shot CLIP's."""
        own = held_out.unit(np.asarray(text.features)[0])
        scale = np.exp(np.asarray(theta["logit_scale"], np.float64))
        fitted = fit(held_out.parts(support, own)) if len(support.labels) else zero_shot(own, float(scale))
        arrays = {
            "mean": fitted.head.weights.T - own,
            "scale": np.full_like(own, fitted.eta),
            "bias": fitted.head.bias,
            "middle": fitted.head.middle,
            "factor": fitted.factor,
        }
        phi = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
        return Variables(phi, {name: phi.pop(name) for name in ("middle", "factor")})

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "k c e"]:
        """t + mu + eta F z."""
        phi = variables.phi
        noise = Gaussian(phi["mean"][None], phi["scale"][None], variables.buffers["factor"])
        return normalise(text) + draw("text_features", noise)

    def image_features(
        self,
        variables: Variables,
        text: Float[Array, "k c e"],
        features: Float[Array, "n #k b e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n k b e"]:
        """f - g, the same for every draw of the texts."""
        moved = normalise(features) - variables.buffers["middle"]
        return jnp.broadcast_to(moved, (len(moved), len(text), *moved.shape[2:]))

    def logits(
        self,
        variables: Variables,
        theta: Parameters,
        images: Float[Array, "n k b e"],
        text: Float[Array, "k c e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n k b c"]:
        """Inner products, not cosines: the lengths of both sides matter."""
        return einsum("nkbe,kce->nkbc", images, text) + variables.phi["bias"]


# ------------------------------------------------------------------------------------------------ on the host


class Fitted(NamedTuple):
    """The head, and the noise of its weights: eta factor^T z."""

    head: Head
    eta: float
    factor: Float[np.ndarray, "e e"]


def zero_shot(text: Float[np.ndarray, "c e"], scale: float) -> Fitted:
    """Zero-shot CLIP as a head, without noise."""
    return _without_noise(_text_head(scale * text))


def _without_noise(head: Head) -> Fitted:
    return Fitted(head, 0.0, np.zeros((len(head.middle),) * 2))


def fit(parts: Sequence[Part]) -> Fitted:
    """Takes the steps above on `held_out.parts`; the zero-shot head if none of them has an image to judge by."""
    labels = np.concatenate([part.labels for part in parts])
    if not len(labels):
        return _without_noise(_plain_head(parts[0]))
    within, candidates = zip(*side_by_side(_discriminants, parts), strict=True)
    worths = _worths(parts[0]) if not held_out.judges_trust(parts) else np.zeros(len(candidates[0]), int)
    starts, evidence = _averages(parts, labels, candidates, [_plain_head(part) for part in parts], worths)
    noises = [_average_covariance(of_part, evidence) for of_part in within]
    learned = side_by_side(_learned, parts, starts, noises)
    heads, _ = _averages(parts, labels, learned, starts, np.zeros(len(learned[0]), int))
    factors = [noise.whitener().T / np.sqrt(len(noise.values)) for noise in noises]
    lengths = np.concatenate(
        [
            np.linalg.norm((part.features - head.middle) @ factor.T, axis=1)
            for part, head, factor in zip(parts, heads, factors, strict=True)
        ]
    )
    eta, temperature = held_out.draw_size(_unseen(parts, heads), lengths, labels)
    head = gaussian_classes.combine(heads[:1], np.array([temperature]))
    return Fitted(head, temperature * eta, factors[0])


def _text_head(embeddings: Float[np.ndarray, "c e"]) -> Head:
    classes, width = embeddings.shape
    return Head(np.zeros(width), embeddings.T, np.zeros(classes))


def _plain_head(part: Part) -> Head:
    """Zero-shot CLIP's; without texts that of the images' means."""
    if part.text.any():
        return _text_head(part.text)
    return gaussian_classes.lone_head(gaussian_classes.means(part.shots[0], part.text).observed)


def _discriminants(part: Part) -> tuple[list[Covariance], list[Head]]:
    """S_r and the head of every pair of k and r, with all views and without."""
    found = [candidate for shots in part.shots for candidate in _of_shots(shots, part.text)]
    within, heads = zip(*found, strict=True)
    return list(within), list(heads)


def _of_shots(shots: Shots, text: Float[np.ndarray, "c e"]) -> Iterator[tuple[Covariance, Head]]:
    means = gaussian_classes.means(shots, text)
    for k in WORTHS if text.any() else OF_THE_MIDDLE:
        plain = gaussian_classes.covariance(shots, means, k)
        for within in map(plain.shrunk, SHRINKAGES):
            yield within, gaussian_classes.posterior_head(means, within, k)


def _worths(part: Part) -> Int[np.ndarray, "g"]:
    """The number of k of every one of these."""
    return np.tile(np.repeat(np.arange(len(WORTHS)), len(SHRINKAGES)), len(part.shots))


def _learned(part: Part, start: Head, noise: Covariance) -> list[Head]:
    """The start, and what is learned from there, with all views and without."""
    return [head for shots in part.shots for head in (start, *gaussian_classes.learned_heads(shots, start, noise))]


def _average_covariance(covariances: Sequence[Covariance], weights: Float[np.ndarray, "g"]) -> Covariance:
    taken = [w * s.matrix() for w, s in zip(weights, covariances, strict=True) if w]
    return Covariance(*np.linalg.eigh(sum(taken[1:], taken[0])))


def _unseen(parts: Sequence[Part], heads: Sequence[Head]) -> Float[np.ndarray, "n c"]:
    """Logits of every part's head on the images that it has not seen."""
    return np.concatenate([head(part.features) for part, head in zip(parts, heads, strict=True)])


def _averages(
    parts: Sequence[Part],
    labels: np.ndarray,
    candidates: Sequence[Sequence[Head]],
    others: Sequence[Head],
    groups: Int[np.ndarray, "g"],
) -> tuple[list[Head], Float[np.ndarray, "g"]]:
    """Of every part the average of its candidates, each blended with the other head; and what each one counts."""
    logits = (_unseen(parts, heads) for heads in zip(*candidates, strict=True))
    evidence, weights = held_out.average(logits, _unseen(parts, others), labels, groups)
    averages = [
        gaussian_classes.combine([*heads, other], weights) for heads, other in zip(candidates, others, strict=True)
    ]
    return averages, evidence
