"""What every method is: zero-shot CLIP in stages, some of which a method replaces.

    theta = method.adapt(variables, theta)                                   # CLIP-LoRA
    text = method.encode_text(variables, theta, text, draw)                  # prompt noise, CoOp
    text = method.text_features(variables, text, draw)                       # text noise, TaskRes
    features, _ = method.encode_images(variables, theta, text, pixels, draw) # noise of pixels and patches
    images = method.image_features(variables, text, features, draw)          # image noise, CLIP-Adapter
    logits = method.logits(variables, theta, images, text)                   # Tip-Adapter, GDA

Shapes: b images, c classes, e joint embedding, n draws of the images' noise for each of k draws of the texts', m
images of the selection in v views.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pini_jax.clip.towers import stage
from pini_jax.clip.zero_shot import HIGHEST, cosine_logits, embed_prompts, encode_prompts, normalise
from pini_jax.methods.objective import Objective, Parts, objective
from pini_jax.noise.gaussian import Draw, draw_mean

Numbers = Any  # of the host, or on a device


class Text(NamedTuple):
    """The classes.

    Attributes:
        features: of their texts by the frozen text tower.
        prompts: what a method encodes itself, at every step; None where it takes the features as they are.
    """

    features: Float[Array, "1 c e"]
    prompts: Any = None  # Prompts, or None


class Support(NamedTuple):
    """The few labelled images of a run: features of their views, un-normalised."""

    features: Float[Numbers, "v m e"]
    labels: Int[Numbers, "m"]

    def rows(self) -> tuple[Float[Array, "v*m e"], Int[Array, "v*m"]]:
        """Every view of every image, of unit length, with its label."""
        views, _, width = self.features.shape
        return normalise(self.features).reshape(-1, width), jnp.tile(self.labels, views)

    def class_means(self, values: Float[Array, "v*m d"], num_classes: int) -> Float[Array, "c d"]:
        """Means over each class of something that every row has."""
        one_hot = jax.nn.one_hot(self.rows()[1], num_classes)
        sums = jnp.matmul(one_hot.T, values, precision=HIGHEST)
        return sums / jnp.maximum(one_hot.sum(0), 1)[:, None]


NO_SUPPORT = Support(np.zeros((1, 0, 0), np.float32), np.zeros(0, np.int32))


class Variables(NamedTuple):
    """What a method knows of its task.

    Attributes:
        phi: what is trained.
        buffers: what is not: fixed at the start, or gathered on the way.
    """

    phi: Mapping
    buffers: Mapping = {}


class Batch(NamedTuple):
    """Images, as a method reads them, with labels, and weights: 1 for an image that counts, 0 for padding.

    Attributes:
        images: features [b e], or normalised pixels [b h w 3] where the method `needs` them.
    """

    images: Float[Numbers, "b *x"]
    labels: Int[Numbers, "b"]
    weights: Float[Numbers, "b"]


@dataclasses.dataclass(frozen=True)
class Method:
    """p(c | x) = softmax_c(exp(s) cos(V(x), T(prompt_c))): zero-shot CLIP, and what others are made from.

    Stages are pure in (variables, theta, images, draw). Fields of a subclass are its options in the config.

    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020.

    Attributes:
        text_tower: a module of `clip.towers`; None where text features are given.
        image_tower: likewise; None where image features are given.
        loss_settings: of the objective.
    """

    text_tower: Any = None
    image_tower: Any = dataclasses.field(default=None, kw_only=True)
    loss_settings: Objective = dataclasses.field(default=Objective(), kw_only=True)

    # {setting of a run: as the paper has it}, and {setting: values that `launch.compare` tries}.
    paper: ClassVar[Mapping[str, Any]] = {}
    search: ClassVar[Mapping[str, tuple]] = {}

    # Whether variables hold the selection itself, so that their shapes follow the shots.
    keeps_support: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """Of `prompts` and `pixels`, whose towers run at every step, and `support`, for `init`."""
        return frozenset()

    @property
    def is_fitted(self) -> bool:
        """Whether `init` solves for all that is to be learned: there are no steps."""
        return True

    @property
    def is_per_class(self) -> bool:
        """Whether what is learned belongs to the classes it was trained on, and is nothing for others."""
        return False

    @property
    def is_random(self) -> bool:
        """Whether predictions depend on draws."""
        return False

    @property
    def moves_images(self) -> bool:
        """Whether more than the cosine of plain image features and class embeddings makes the mean's logits."""
        return False

    def num_draws(self, num_samples: int) -> dict[str, int]:
        """How many draws a training step takes at each site; one where a site is not named."""
        return {}

    # ------------------------------------------------------------------------------------------- stages

    def init(self, key: Array, theta: Mapping, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """What is known before the first step: drawn, or made from the classes and the selection."""
        return Variables({})

    def adapt(self, variables: Variables, theta: Mapping) -> Mapping:
        """The towers' parameters."""
        return theta

    def prompt_tokens(
        self, variables: Variables, theta: Mapping, text: Text, draw: Draw = draw_mean
    ) -> tuple[Float[Array, "k a+p d"], Float[Array, "r s d"]]:
        """Embedded prompts: the start tokens with the shared prefix, and rows of suffixes."""
        return embed_prompts(self.text_tower, theta, text.prompts)

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "k c e"]:
        """Of the classes, from what the text tower makes of them; un-normalised."""
        return text

    def encode_images(
        self,
        variables: Variables,
        theta: Mapping,
        text: Float[Array, "k c e"],
        pixels: Float[Array, "b h w 3"],
        draw: Draw = draw_mean,
        weights: Float[Array, "b"] | None = None,
    ) -> tuple[Float[Array, "n k b e"], Mapping]:
        """Image features from pixels, and the buffers afterwards.

        Args:
            weights: of the images of a training step; None in prediction.
        """
        return stage(self.image_tower, "__call__", theta["image"], pixels)[None, None], variables.buffers

    def image_features(
        self,
        variables: Variables,
        text: Float[Array, "k c e"],
        features: Float[Array, "n k b e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n k b e"]:
        """From what the image tower makes of the images; un-normalised."""
        return features

    def logits(
        self,
        variables: Variables,
        theta: Mapping,
        images: Float[Array, "n k b e"],
        text: Float[Array, "k c e"],
    ) -> Float[Array, "n k b c"]:
        """From the features of both sides."""
        return cosine_logits(theta, images, text)

    def penalty(self, variables: Variables, theta: Mapping, text: Text) -> Float[Array, ""] | float:
        """What is added to the loss, in nats."""
        return 0.0

    # ------------------------------------------------------------------------------------------- the whole

    def encode_text(
        self, variables: Variables, theta: Mapping, text: Text, draw: Draw = draw_mean
    ) -> Float[Array, "k c e"]:
        """Text features of every class for every draw of the prompt's noise."""
        if text.prompts is None:
            return text.features
        prefix, suffix = self.prompt_tokens(variables, theta, text, draw)
        return encode_prompts(self.text_tower, theta, prefix, suffix, text.prompts)

    def forward(
        self,
        variables: Variables,
        theta: Mapping,
        text: Text,
        images: Float[Array, "b *x"],
        draw: Draw = draw_mean,
        weights: Float[Array, "b"] | None = None,
    ) -> tuple[Float[Array, "n k b c"], Mapping]:
        """All stages: logits for every draw, and the buffers afterwards."""
        theta, buffers = self.adapt(variables, theta), variables.buffers
        encoded = self.text_features(variables, self.encode_text(variables, theta, text, draw), draw)
        if "pixels" in self.needs:
            features, buffers = self.encode_images(variables, theta, encoded, images, draw, weights)
        else:
            features = images[None, None]
        found = self.image_features(variables, encoded, features, draw)
        return self.logits(variables, theta, found, encoded), buffers

    def loss(
        self, variables: Variables, theta: Mapping, text: Text, batch: Batch, draw: Draw
    ) -> tuple[Parts, Mapping]:
        """What training minimises, in parts, and the buffers afterwards."""
        logits, buffers = self.forward(variables, theta, text, batch.images, draw, batch.weights)
        penalty = self.penalty(variables, theta, text)
        return objective(logits, batch.labels, batch.weights, self.loss_settings, jnp.asarray(penalty)), buffers
