"""Linear classifiers of image features: logistic regression, and class embeddings that are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import cosine_logits, normalise
from pini_jax.core.options import positive
from pini_jax.core.products import matmul
from pini_jax.core.shapes import Numbers, Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean
from pini_jax.noise.gaussian import Gaussian

ITERATIONS = 300
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class LinearProbe(Method):
    """min_{W, b} mean_i CE(W f_i + b, y_i) + |W|^2 / (2 C m): logistic regression of m unit features, from zero.

    Every view of an image is a feature of its own, and the text is not used. Full-batch L-BFGS, 300 iterations at
    most.

    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020, Appendix A.3: C is searched.

    Attributes:
        C: inverse of the penalty, as scikit-learn has it.
    """

    C: float = positive(31.6)

    search: ClassVar[Search] = {"options.C": (1.0, 3.16, 10.0, 31.6, 100.0, 316.0, 1e3, 1e4)}

    # A row of W for every class; logits are no cosines.
    traits = Traits(starts_from_support=True, is_fitted=True, is_per_class=True, moves_images=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Solves for W and b."""
        features, labels = support.rows()
        decay = 1 / (self.C * len(labels))

        def loss(phi: Parameters) -> Float[Array, ""]:
            logits = matmul(features, phi["kernel"]) + phi["bias"]
            fit = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return fit + decay / 2 * jnp.square(phi["kernel"]).sum()

        classes, width = text.features.shape[-2:]
        return Variables(_minimise(loss, {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}))

    def logits(
        self,
        variables: Variables,
        theta: Parameters,
        images: Float[Array, "n _ b e"],
        text: Float[Array, "_ c e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n _ b c"]:
        """W f + b."""
        return matmul(normalise(images), variables.phi["kernel"]) + variables.phi["bias"]


def _minimise(loss: Callable[[Mapping[str, Any]], Float[Array, ""]], start: Parameters) -> Mapping[str, Any]:
    """L-BFGS until the gradient is small."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        x, state, _, count = carry
        value, gradient = value_and_grad(x, state=state)
        updates, state = solver.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(x, updates), state, optax.tree.norm(gradient), count + 1

    def is_far(carry: tuple[Any, ...]) -> Array:
        return (carry[2] > TOLERANCE) & (carry[3] < ITERATIONS)

    return jax.lax.while_loop(is_far, step, (start, solver.init(start), jnp.inf, 0))[0]


@dataclasses.dataclass(frozen=True)
class ZeroShotProbe(Method):
    """logits = exp(s) cos(f, w), with w = norm t / |t| at the start: a linear probe that starts as zero-shot CLIP.

    Source: Silva-Rodriguez et al. 2024, A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models,
    https://arxiv.org/abs/2312.12730 ("ZS-LP"): SGD, learning rate 0.1, batches of 256, 300 epochs.

    Attributes:
        norm: length of w at the start, about that of CLIP's own text features, since steps are not free of scale.
    """

    norm: float = positive(9.0)

    paper: ClassVar[Mapping[str, Any]] = {
        "optim.lr": 0.1,
        "optim.weight_decay": 0.0,
        "optim.epochs": 300,
        "batch_size": 256,
    }
    search: ClassVar[Search] = {"optim.lr": (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)}

    traits = Traits(is_per_class=True)  # a w each

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """The text features, scaled to one length."""
        return Variables({"embeddings": self.norm * normalise(text.features[0])})

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "_ c e"]:
        """w."""
        return variables.phi["embeddings"][None]


@dataclasses.dataclass(frozen=True)
class Clap(ZeroShotProbe):
    """ZeroShotProbe with a penalty, strength mean_c lambda_c |w_c - w_c0|^2, largest where zero-shot CLIP is good.

    lambda_c is the mean over the images of class c of zero-shot CLIP's p(c | x); it stays as it starts.

    Source: Silva-Rodriguez et al. 2024, https://arxiv.org/abs/2312.12730 ("CLAP"), and its code's `l2` constraint.

    Attributes:
        strength: 1 in the paper.
    """

    strength: float = positive(1.0)

    search: ClassVar[Search] = {
        "optim.lr": (0.03, 0.1),
        "options.strength": (0.3, 1.0, 3.0, 10.0),
    }

    traits = Traits(starts_from_support=True, is_per_class=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Multipliers from zero-shot CLIP on the selection."""
        phi = super().init(key, theta, text).phi
        features, labels = support.rows()
        p = jax.nn.softmax(cosine_logits(theta, features[None, None], text.features))[0, 0]
        multipliers = jnp.diagonal(support.class_means(p, len(phi["embeddings"])))
        return Variables(phi, {"start": phi["embeddings"], "multipliers": multipliers})

    def penalty(
        self,
        variables: Variables,
        theta: Parameters,
        text: Text,
        noise: Mapping[str, Gaussian],
        weights: Float[Numbers, "b"],
    ) -> Float[Array, ""]:
        """The penalty for class embeddings that have moved."""
        moved = jnp.square(variables.phi["embeddings"] - variables.buffers["start"]).sum(-1)
        return self.strength * (variables.buffers["multipliers"] * moved).mean()
