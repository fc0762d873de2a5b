"""Noise of the shape that the labelled images have: what the paper's generators leave to be learned from nothing.

The selection's features of unit length, f_i of class y_i, give for every class of n images a mean m_c, and

    p_c = g + beta (t_c - t)           what the text says of it: g and t are the means over classes of m_c and t_c,
                                       and beta = sum_c (m_c - g)(t_c - t) / sum_c |t_c - t|^2
    m~_c = (n m_c + k p_c) / (n + k)   both together: the text counts as k images beside n
    S = (n + k) / (n + k - 1) mean_i (f_i - m~_{y_i})(f_i - m~_{y_i})^T
    S_r = (1 - r) S + r tr(S) / e I

so that there is a covariance within classes even where every class has one image.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.options import at_least, fraction, one_of, positive
from pini_jax.core.products import matmul
from pini_jax.noise.generators import SIGMAS, Generator, Inputs, Moment


class Spread(NamedTuple):
    """Statistics of the selection: class means (m~), their middle (g), and the covariance within classes (S)."""

    means: Float[Array, "c e"]
    middle: Float[Array, "e"]
    covariance: Float[Array, "e e"]

    def shrunk(self, shrinkage: float) -> Float[Array, "e e"]:
        """The shrunk covariance S_r."""
        width = len(self.middle)
        return (1 - shrinkage) * self.covariance + shrinkage * jnp.trace(self.covariance) / width * jnp.eye(width)


def estimate_spread(inputs: Inputs, prior_shots: float) -> Spread:
    """The statistics of the selection that a generator starts from: the formulas above, with k = prior_shots."""
    text, (features, labels) = normalise(inputs.text[0]), inputs.support.rows()
    images = inputs.support.labels  # views of an image are one image
    counts = jnp.bincount(images, length=len(text))[:, None]
    means = inputs.support.class_means(features, len(text))
    middle, apart = means.mean(0), text - text.mean(0)
    beta = ((means - middle) * apart).sum() / jnp.square(apart).sum()
    means = (counts * means + prior_shots * (middle + beta * apart)) / (counts + prior_shots)
    rest = features - means[labels]
    seen = len(images) / len(text) + prior_shots
    covariance = seen / (seen - 1) * matmul(rest.T, rest) / len(features)
    return Spread(means, middle, covariance)


class Structured(Generator):
    """Base class of noise in units of |x|, since its shape is that of unit features; `level` multiplies them.

    Attributes:
        prior_shots: k, how many images of its class a text counts for; more than 0.
        shrinkage: r, from 0 (the covariance) to 1 (its trace on every axis alike).
        centre: how much of the mean over classes is taken away, on both sides alike where both have it.
    """

    reads_support: ClassVar[bool] = True

    prior_shots: float = positive(2.0)
    shrinkage: float = fraction(0.25)
    centre: float = at_least(0, 0.0)

    def _unit(self, x: Float[Array, "n k *b e"]) -> Array:
        norm = jnp.linalg.norm(jax.lax.stop_gradient(x).astype(jnp.float32), axis=-1, keepdims=True)
        return (self.level or 1.0) * norm


class Residual(Structured):
    """eps = |f| (m - centre g + s z F), with F^T F = S_r: image noise that varies as images vary within classes.

    The shift m [e] and the scale s are learned; with the control `random` there is no m, and s is initial_scale.

    Attributes:
        initial_scale: s before the first step.
    """

    @property
    def is_still(self) -> bool:
        """As in `Generator`, but False where the centre is subtracted, which moves images in any case."""
        return super().is_still and not self.centre

    def start(self, inputs: Inputs) -> Float[Array, "e"]:
        """The mean before anything is learned: - centre g."""
        return self.variable("support", "start", lambda: -self.centre * self._spread(inputs).middle).value

    def factor(self, inputs: Inputs) -> Float[Array, "e e"]:
        """The directions F, the symmetric root of S_r."""

        def root() -> Float[Array, "e e"]:
            values, vectors = jnp.linalg.eigh(self._spread(inputs).shrunk(self.shrinkage))
            scaled = vectors * jnp.sqrt(jnp.maximum(values, 0))
            return matmul(scaled, vectors.T)

        return self.variable("support", "factor", root).value

    def _spread(self, inputs: Inputs) -> Spread:
        return estimate_spread(inputs, self.prior_shots)

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """m, which starts at zero, and one scale for all directions."""
        shape, scale = inputs.x.shape[-1:], nn.initializers.constant(self.initial_scale)
        return lambda: self.param("mean", nn.initializers.zeros, shape), lambda: self.param("scale", scale, ())


class Discriminant(Structured):
    """eps_c = |t_c| (mu_c + sigma_c z), where mu_c starts at strength D_c / rms(|D|) - centre t.

    D_c = S_r^-1 (m~_c - g) is the direction in which linear discriminant analysis tells class c from the others;
    sigma is a table.

    Attributes:
        strength: root mean square length of the start, over classes.
        initial_scale: of sigma, as in `Table`.
    """

    is_table: ClassVar[bool] = True

    sigma: str = one_of(SIGMAS, "free")
    initial_scale: float = positive(0.02)
    strength: float = positive(0.2)

    def start(self, inputs: Inputs) -> Float[Array, "c e"]:
        """The mean before anything is learned."""

        def directions() -> Float[Array, "c e"]:
            around = estimate_spread(inputs, self.prior_shots)
            apart = (around.means - around.middle).T
            solved = jax.scipy.linalg.solve(around.shrunk(self.shrinkage), apart, assume_a="pos").T
            length = jnp.sqrt(jnp.square(solved).sum(-1).mean())
            return self.strength * solved / length - self.centre * normalise(inputs.text[0]).mean(0)

        return self.variable("support", "start", directions).value

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """What is learned on top of the start, from zero."""
        scale = nn.initializers.normal(self.initial_scale)
        return (
            lambda: self.param("mean", nn.initializers.zeros, inputs.shape),
            lambda: self.param("scale", scale, inputs.shape),
        )
