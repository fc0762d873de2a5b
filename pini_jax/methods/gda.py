"""GDA: Gaussian discriminant analysis beside zero-shot CLIP."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.errors import InputError
from pini_jax.core.options import positive
from pini_jax.core.products import matmul
from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean

SAME = 1e-12  # mean square of unit features around their means, below which it is rounding alone


@dataclasses.dataclass(frozen=True)
class Gda(Method):
    """logits_c = exp(s) cos(f, t_c) + alpha (f P m_c - m_c P m_c / 2 - log c);  P = e (S + tr(S) I / (m - 1))^-1.

    m_c are the means of the classes' unit features, S the scatter of all m features around them; nothing is
    trained.

    Source: Wang et al. 2024, A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation,
    https://arxiv.org/abs/2402.04087: alpha is searched on validation images.

    Attributes:
        alpha: weight of the discriminant.
    """

    alpha: float = positive(1.0)

    search: ClassVar[Search] = {"options.alpha": (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)}

    # A mean of every class; logits are no cosines.
    traits = Traits(starts_from_support=True, is_fitted=True, is_per_class=True, moves_images=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """The discriminant; no numbers where all features of every class are the same, which a run refuses.

        Raises:
            InputError: there is one feature per class, and no scatter around it.
        """
        (f, labels), (classes, width) = support.rows(), text.features.shape[1:]
        if len(labels) <= classes:
            raise InputError("gda needs more than one feature per class: more shots, or several cached views")
        means = support.class_means(f, classes)
        rest = f - means[labels]
        scatter = matmul(rest.T, rest)
        total = jnp.trace(scatter)
        ridge = jnp.where(total > SAME * len(labels), total / (len(labels) - 1), jnp.nan)
        solved = jax.scipy.linalg.solve(scatter + ridge * jnp.eye(width), means.T, assume_a="pos")
        kernel = width * solved
        bias = -0.5 * (kernel * means.T).sum(0) - jnp.log(classes)
        return Variables({"kernel": kernel, "bias": bias})

    def logits(
        self,
        variables: Variables,
        theta: Parameters,
        images: Float[Array, "n _ b e"],
        text: Float[Array, "_ c e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n _ b c"]:
        """The sum of zero-shot CLIP's logits and the discriminant's."""
        phi = variables.phi
        discriminant = matmul(normalise(images), phi["kernel"]) + phi["bias"]
        return super().logits(variables, theta, images, text, draw) + self.alpha * discriminant
