"""Classes as Gaussians of one covariance, from a few images and a text each, and the linear heads of it.

Unit features f_i with label y_i, unit texts t_c. n_c images of a class, views of one counting as one; M_c is their
mean, g the mean of the M_c, A_c = t_c - mean t. What the texts say of a class, and what is not known of it:

    P_c = g + beta A_c,   beta = sum_c <M_c - g, A_c> / sum_c |A_c|^2
    m_c = P_c + R_c,      R ~ N(0, (I + G) x (S + C) / 4k),      f_i ~ N(m_{y_i}, S)

G is A A^T at a mean diagonal of 1: classes whose texts are alike move together. C has the shape of the scatter of
the class means, at a trace of e in coordinates where S = I: means move along the directions in which classes
differ. So k is how many images a text is worth. S is estimated around (n M + 4k P) / (n + 4k), which one image per
class allows, and S_r = (1 - r) S + r tr(S) / e I.

Everything here is NumPy in float64, and asks now and then whether to stop: many classes take minutes. Shapes: m
rows (views of images), c classes, e channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # which loads its parts at their first use: half a second
from jaxtyping import Float, Int

from pini_jax.core import stop

TINY = 1e-12  # beside squares of unit features: for what does not vary at all
STRENGTHS = (1.0, 0.25, 0.06, 0.015, 0.004)  # of the pull to the start, in nats
STEPS = 25  # of L-BFGS for each of them


class Shots(NamedTuple):
    """Labelled rows of unit features.

    Attributes:
        weights: of the rows; those of an image's views add up to 1.
        images: which image a row is a view of.
    """

    features: Float[np.ndarray, "m e"]
    labels: Int[np.ndarray, "m"]
    weights: Float[np.ndarray, "m"]
    images: Int[np.ndarray, "m"]

    def take(self, rows: np.ndarray) -> Shots:
        """Some of the rows."""
        return Shots(*(x[rows] for x in self))


class Head(NamedTuple):
    """logits = (f - middle) weights + bias."""

    middle: Float[np.ndarray, "e"]
    weights: Float[np.ndarray, "e c"]
    bias: Float[np.ndarray, "c"]

    def __call__(self, features: Float[np.ndarray, "m e"]) -> Float[np.ndarray, "m c"]:
        return (features - self.middle) @ self.weights + self.bias


class Covariance(NamedTuple):
    """vectors diag(values) vectors^T."""

    values: Float[np.ndarray, "e"]
    vectors: Float[np.ndarray, "e e"]

    def shrunk(self, r: float) -> Covariance:
        """S_r = (1 - r) S + r tr(S) / e I."""
        return Covariance((1 - r) * self.values + r * self.values.mean(), self.vectors)

    def matrix(self) -> Float[np.ndarray, "e e"]:
        """The covariance as one matrix."""
        return (self.vectors * self.values) @ self.vectors.T

    def whitener(self) -> Float[np.ndarray, "e e"]:
        """H with H^T S H = I."""
        return self.vectors / np.sqrt(np.maximum(self.values, TINY))


class Means(NamedTuple):
    """What is known about the class means before the covariance.

    Attributes:
        counts, observed: n and M; where n is 0, M is P.
        predicted: P.
        middle: g.
        kinship: I + G, with `modes`, the eigenvalues and vectors of n^.5 (I + G) n^.5.
    """

    counts: Float[np.ndarray, "c"]
    observed: Float[np.ndarray, "c e"]
    predicted: Float[np.ndarray, "c e"]
    middle: Float[np.ndarray, "e"]
    kinship: Float[np.ndarray, "c c"]
    modes: tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c c"]]


def means(shots: Shots, text: Float[np.ndarray, "c e"]) -> Means:
    """The means of the classes, some of which may have no image."""
    counts = np.bincount(shots.labels, weights=shots.weights, minlength=len(text))
    seen, sums = counts > 0, np.zeros_like(text)
    np.add.at(sums, shots.labels, shots.features * shots.weights[:, None])
    observed = sums / np.where(seen, counts, 1)[:, None]
    middle = observed[seen].mean(0)
    apart = text - text[seen].mean(0)
    beta = ((observed - middle) * apart)[seen].sum() / max(np.square(apart[seen]).sum(), TINY)
    predicted = middle + beta * apart
    centred = text - text.mean(0)
    gram = centred @ centred.T
    kinship = np.eye(len(text)) + gram * len(text) / max(np.trace(gram), TINY)
    root = np.sqrt(counts)
    values, vectors = np.linalg.eigh(root[:, None] * kinship * root)
    observed = np.where(seen[:, None], observed, predicted)
    return Means(counts, observed, predicted, middle, kinship, (np.maximum(values, 0), vectors))


def covariance(shots: Shots, means: Means, k: float) -> Covariance:
    """S around the posterior means under a prior of 4 k images that knows no directions.

    Each row counts (n + 4k) / (n + 4k - 1) times, which makes up for what its own class's mean has taken from it:
    where all n are equal that is the fixed point of EM.
    """
    n, prior = means.counts[:, None], 4 * k
    stop.raise_if_requested()
    centres = (n * means.observed + prior * means.predicted) / (n + prior)
    unseen = (means.counts + prior) / (means.counts + prior - 1)
    rest = shots.features - centres[shots.labels]
    scatter = (rest * (shots.weights * unseen[shots.labels])[:, None]).T @ rest
    values, vectors = np.linalg.eigh(scatter / shots.weights.sum())
    return Covariance(np.maximum(values, 0), vectors)


def posterior_head(means: Means, within: Covariance, k: float) -> Head:
    """Linear discriminant of the posterior class means: W_c = S^-1 (m_c - g), b_c = -|m_c - g|^2_{S^-1} / 2.

    With n^.5 (I + G) n^.5 = Q diag(l) Q^T and D = M - P, m - P = (I + G) n^.5 Q [phi_j (Q^T n^.5 D v_j) / (phi_j l
    + 1)] v_j^T, summed over the eigenpairs (phi_j, v_j) of (I + C) / 4k in white coordinates.
    """
    stop.raise_if_requested()
    white, n, prior = within.whitener(), means.counts[:, None], 4 * k
    predicted, moved = (means.predicted - means.middle) @ white, (means.observed - means.predicted) @ white
    _, spread, axes = np.linalg.svd(predicted + moved * n / (n + prior), full_matrices=False)
    spread = spread**2 * len(white) / max(np.square(spread).sum(), TINY)
    (modes, vectors), root = means.modes, np.sqrt(n)
    evidence = vectors.T @ (root * moved)
    along = evidence @ axes.T
    variances, modes = (1 + spread) / prior, modes[:, None]
    solved = along * variances / (variances * modes + 1) @ axes + (evidence - along @ axes) / (modes + prior)
    classes = predicted + means.kinship @ (root * (vectors @ solved))
    return Head(means.middle, white @ classes.T, -0.5 * np.square(classes).sum(1))


def lone_head(images: Float[np.ndarray, "c e"]) -> Head:
    """The head from the means f_c of few images per class alone, assuming that they vary as much as classes do.

    V is the variance of the f_c along each of (tr C)^2 / tr C^2 directions, C their covariance; half of it is
    taken for noise. So m_c = g + (f_c - g) / 2, up to V / 4: W_c = (f_c - g) / 1.5 V, b_c = -|f_c - g|^2 / 6 V.
    """
    middle = images.mean(0)
    apart = images - middle
    lengths, gram = np.square(apart).sum(1), apart @ apart.T
    variance = max(np.square(gram).sum() / max(lengths.sum(), TINY) / max(len(images) - 1, 1), TINY)
    return Head(middle, apart.T / (1.5 * variance), -lengths / (6 * variance))


def learned_heads(shots: Shots, start: Head, noise: Covariance) -> list[Head]:
    """Heads learned under image noise N(0, S), one for each strength of the pull to the start; in nats:

        min_W sum_i -log softmax_{y_i}(W f_i + b + (w_c - w_{y_i})^T S (w_c - w_{y_i}) / 2)
              + strength e / 2 sum_c |w_c - w0_c|^2_S

    The first term bounds E_z CE(f_i + z) from above (Jensen's inequality; Wang et al. 2019, Implicit Semantic Data
    Augmentation, https://arxiv.org/abs/1909.12220), the second is the KL of text noise to a prior around the
    start. The sum is over images, not their mean, so that the pull fades as shots grow. Convex.
    """
    width = len(start.middle)
    white = noise.whitener() / np.sqrt(width)
    rows = (shots.features - start.middle) @ white
    first = (noise.matrix() @ start.weights).T @ white * width
    heads, solution = [], first.ravel()
    for strength in STRENGTHS:
        stop.raise_if_requested()
        solution = scipy.optimize.minimize(
            _noisy_loss,
            solution,
            args=(strength, shots, rows, first, start.bias),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": STEPS, "ftol": 1e-6},
        ).x
        heads.append(Head(start.middle, white @ solution.reshape(first.shape).T, start.bias))
    return heads


def _noisy_loss(
    flat: Float[np.ndarray, "w"],
    strength: float,
    shots: Shots,
    rows: Float[np.ndarray, "m e"],
    start: Float[np.ndarray, "c e"],
    bias: Float[np.ndarray, "c"],
) -> tuple[float, Float[np.ndarray, "w"]]:
    """What `learned_heads` minimises and its gradient, in coordinates where S = I / e."""
    weights, variance = flat.reshape(start.shape), 1 / start.shape[1]
    rank, images = np.arange(len(rows)), shots.weights
    gram = weights @ weights.T
    lengths = np.diag(gram)
    apart = variance / 2 * (lengths[:, None] + lengths - 2 * gram)
    p = rows @ weights.T  # logits until they are probabilities, in place: many classes are large
    p += (apart + bias)[shots.labels]
    p -= p.max(1, keepdims=True)
    true = p[rank, shots.labels]
    total = np.exp(p, out=p).sum(1)
    value = (images * (np.log(total) - true)).sum()
    p *= (images / total)[:, None]
    confused = scipy.sparse.csr_array((np.ones(len(rows)), (shots.labels, rank)), (len(start), len(rows))) @ p
    confused += confused.T
    p[rank, shots.labels] -= images
    moved = weights - start
    gradient = p.T @ rows + variance * (confused.sum(1)[:, None] * weights - confused @ weights) + strength * moved
    return float(value + strength / 2 * np.square(moved).sum()), gradient.ravel()


def combine(heads: Sequence[Head], weights: Float[np.ndarray, "g"]) -> Head:
    """The head whose logits are the weighted sum of these heads'."""
    middle = heads[0].middle
    at_middle = sum(w * head(middle[None])[0] for w, head in zip(weights, heads, strict=True))
    return Head(middle, sum(w * head.weights for w, head in zip(weights, heads, strict=True)), at_middle)
