"""ProLIP: the last projection of the image tower is trained, and held to its start; and its linear adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.errors import InputError
from pini_jax.core.options import positive
from pini_jax.core.products import matmul
from pini_jax.core.shapes import Numbers, Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean
from pini_jax.noise.gaussian import Gaussian

PROJECTIONS = (("projection", "kernel"), ("pool", "out", "kernel"))  # of a transformer, of a ResNet


@dataclasses.dataclass(frozen=True)
class HeldToStart(Method):
    """A matrix W_0 + D whose D starts at zero, with a penalty, strength |D|^2 / N, of N images per class.

    Source: Fahes et al. 2024, CLIP's Visual Embedding Projector is a Few-shot Cornucopia,
    https://arxiv.org/abs/2410.05270: strength 1 where there is no validation (else lambda is searched from 0 to
    10), Adam with epsilon 1e-4, learning rates from 1e-5 to 1e-2 by a cosine of steps, 300 steps of all images.

    Attributes:
        strength: N lambda there.
    """

    strength: float = positive(1.0)

    paper: ClassVar[Mapping[str, Any]] = {
        "optim.name": "adam",
        "optim.schedule": "cosine",
        "optim.lr": 1e-3,
        "optim.weight_decay": 0.0,
        "optim.epsilon": 1e-4,
        "optim.epochs": 300,
        "batch_size": 16384,
    }
    search: ClassVar[Search] = {
        "optim.lr": (1e-5, 1e-4, 1e-3, 1e-2),
        "options.strength": (0.1, 1.0),
    }

    def _start(self, shape: tuple[int, ...], text: Text, support: Support) -> Variables:
        per_class = max(1, len(support.labels)) / text.features.shape[1]
        return Variables({"change": jnp.zeros(shape)}, {"weight": jnp.float32(self.strength / per_class)})

    def penalty(
        self,
        variables: Variables,
        theta: Parameters,
        text: Text,
        noise: Mapping[str, Gaussian],
        weights: Float[Numbers, "b"],
    ) -> Float[Array, ""]:
        """The penalty for a matrix that has moved."""
        return variables.buffers["weight"] * jnp.square(variables.phi["change"]).sum()


@dataclasses.dataclass(frozen=True)
class ProLip(HeldToStart):
    """f = (W_0 + D)^T g, with g before the image tower's last projection W_0, and a penalty strength |D|^2 / N.

    Trained by the cross-entropy of exp(s) cos(f, t), from D = 0, where N is the number of images per class. The
    tower is run at every step, as the views of the images are fresh; a bias of the projection stays as it is.

    Source: Fahes et al. 2024, CLIP's Visual Embedding Projector is a Few-shot Cornucopia,
    https://arxiv.org/abs/2410.05270; its settings are in `HeldToStart`.

    Attributes:
        strength: as above.
    """

    traits = Traits(reads="pixels", starts_from_support=True, moves_images=True)  # another tower

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Starts without a change: D = 0.

        Raises:
            InputError: the image tower has no projection.
        """
        return self._start(flatten_dict(theta["image"])[_projection(theta)].shape, text, support)

    def adapt(self, variables: Variables, theta: Parameters) -> Mapping[str, Any]:
        """The image tower with the changed projection."""
        image, path = flatten_dict(theta["image"]), _projection(theta)
        changed = image[path] + variables.phi["change"].astype(image[path].dtype)
        return {**theta, "image": unflatten_dict({**image, path: changed})}


def _projection(theta: Parameters) -> tuple[str, ...]:
    """The path of W_0 in the image tower."""
    known = flatten_dict(theta["image"])
    for path in PROJECTIONS:
        if path in known:
            return path
    raise InputError("prolip changes the last projection of the image tower, and it has none: take linear_adapter")


@dataclasses.dataclass(frozen=True)
class LinearAdapter(HeldToStart):
    """f <- (I + D)^T f, with a penalty strength |D|^2 / N: the form of ProLIP for features alone.

    Trained by the cross-entropy of exp(s) cos(f, t), from D = 0, where N is the number of images per class. Of
    degree one in f, so that f is taken at unit length. It is not ProLIP: it cannot reach what W_0 leaves out.

    Source: Fahes et al. 2024, CLIP's Visual Embedding Projector is a Few-shot Cornucopia,
    https://arxiv.org/abs/2410.05270 ("Regularized Linear Adapter"); its settings are in `HeldToStart`.

    Attributes:
        strength: as above.
    """

    traits = Traits(starts_from_support=True, moves_images=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Starts without a change: D = 0."""
        return self._start((text.features.shape[-1],) * 2, text, support)

    def image_features(
        self,
        variables: Variables,
        text: Float[Array, "k c e"],
        features: Float[Array, "n _ b e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "_ _ b e"]:
        """The adapted image features."""
        features = normalise(features)
        return features + matmul(features, variables.phi["change"])
