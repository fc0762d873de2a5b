"""What every method is: stages from images and class texts to logits, some of which a method replaces.

`methods.forward` has their order. As they stand here they are zero-shot CLIP's.

Shapes: as in `core.shapes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import optax
from jaxtyping import Array, Float, Int

from pini_jax.clip.prompts import Prompts
from pini_jax.clip.towers import TextTower, stage
from pini_jax.clip.zero_shot import cosine_logits, embed_prompts, encode_prompts
from pini_jax.core.shapes import Numbers, Parameters, present
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods import optim
from pini_jax.methods.objective import Objective
from pini_jax.methods.optim import Length, Optim
from pini_jax.noise.draws import Draw, draw_mean
from pini_jax.noise.gaussian import Gaussian

Search = Mapping[str, tuple[Any, ...]]  # {setting: the values to try}
Reads = Literal["features", "pixels"]


class Text(NamedTuple):
    """The classes, as a method reads them.

    Attributes:
        features: the frozen text tower's features of their texts.
        prompts: prompts that the method encodes itself at every step; None if it takes the features as they are.
    """

    features: Float[Array, "1 c e"]
    prompts: Prompts | None = None


class Variables(NamedTuple):
    """What a method has learned or stored for its task.

    Attributes:
        phi: the trained parameters.
        buffers: what is not trained: fixed at the start, or accumulated during training.
    """

    phi: Parameters
    buffers: Parameters = {}


class Batch(NamedTuple):
    """Images, as a method reads them, with labels, and weights: 1 for an image that counts, 0 for padding.

    Attributes:
        images: features [b e], or normalised pixels [b h w 3], as the method's traits say.
    """

    images: Float[Numbers, "b *x"]
    labels: Int[Numbers, "b"]
    weights: Float[Numbers, "b"]


class Traits(NamedTuple):
    """What a method reads, and what follows from how it learns.

    Attributes:
        reads: `features` of images, or `pixels`, where the image tower runs at every step.
        encodes_prompts: whether the text tower runs at every step.
        starts_from_support: whether `init` reads the labelled images.
        sets_itself: whether `init` also chooses the settings: it sees validation images, and the evaluation views
            of the selection before the others; it runs on the host, uncompiled.
        keeps_support: whether variables hold these images themselves, so that their shapes depend on the shots.
        is_fitted: whether `init` solves for everything that is learned: there are no steps.
        is_per_class: whether what is learned applies only to the classes it was trained on.
        is_random: whether predictions depend on draws.
        convolves: whether kernels of convolutions are learned.
        moves_images: whether the logits are more than cosines of CLIP's image features and class embeddings.
    """

    reads: Reads = "features"
    encodes_prompts: bool = False
    starts_from_support: bool = False
    sets_itself: bool = False
    keeps_support: bool = False
    is_fitted: bool = False
    is_per_class: bool = False
    is_random: bool = False
    convolves: bool = False
    moves_images: bool = False

    @property
    def needs_towers(self) -> bool:
        """Whether features alone are not enough."""
        return self.encodes_prompts or self.reads == "pixels"


@dataclasses.dataclass(frozen=True)
class Method:
    """Stages, pure in (variables, theta, images, draw). Fields of a subclass are its options in the config.

    Attributes:
        text_tower: None where text features are given.
        image_tower: None where image features are given.
        loss_settings: settings of the objective.
    """

    text_tower: TextTower | None = None
    image_tower: nn.Module | None = dataclasses.field(default=None, kw_only=True)
    loss_settings: Objective = dataclasses.field(default=Objective(), kw_only=True)

    # {setting of a run: as the paper has it}, the same where there are images, and {setting: values that
    # `launch.compare` tries}.
    paper: ClassVar[Mapping[str, Any]] = {}
    paper_of_images: ClassVar[Mapping[str, Any]] = {}
    search: ClassVar[Search] = {}

    @property
    def traits(self) -> Traits:
        """What the method reads, and what follows from how it learns."""
        return Traits()

    def num_draws(self, num_samples: int) -> dict[str, int]:
        """How many draws a training step takes at each site; one where a site is not named."""
        return {}

    def schedule(self, settings: Optim, length: Length) -> optax.Schedule:
        """The learning rate as a function of the step."""
        return optim.schedule(settings, length)

    def optimiser(self, settings: Optim, length: Length) -> optax.GradientTransformation:
        """The optimiser of the trainable parameters, with the learning rate of `schedule`."""
        return optim.optimiser(settings, length)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """The variables before the first step: drawn at random, or made from the classes and the selection."""
        raise NotImplementedError

    def adapt(self, variables: Variables, theta: Parameters) -> Mapping[str, Any]:
        """The towers' parameters, as the method changes them."""
        return theta

    def prompt_tokens(
        self, variables: Variables, theta: Parameters, text: Text, draw: Draw = draw_mean
    ) -> tuple[Float[Array, "k q d"], Float[Array, "r s d"]]:
        """Embedded prompts: the start tokens with the shared prefix, and rows of suffixes."""
        return embed_prompts(present(self.text_tower), theta, present(text.prompts))

    def encode_prompts(
        self, theta: Parameters, prefix: Float[Array, "k q d"], suffix: Float[Array, "r s d"], prompts: Prompts
    ) -> Float[Array, "k c e"]:
        """Runs the text tower over embedded prompts."""
        return encode_prompts(present(self.text_tower), theta, prefix, suffix, prompts)

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "_ c e"]:
        """The classes' features, from the text tower's output; un-normalised."""
        return text

    def encode_images(
        self,
        variables: Variables,
        theta: Parameters,
        text: Float[Array, "k c e"],
        pixels: Float[Numbers, "b h w 3"],
        draw: Draw = draw_mean,
        weights: Float[Numbers, "b"] | None = None,
    ) -> tuple[Float[Array, "n _ b e"], Parameters]:
        """Image features from pixels, and the updated buffers.

        Args:
            weights: weights of a training step's images; None in prediction.
        """
        return stage(present(self.image_tower), "__call__", theta["image"], pixels)[None, None], variables.buffers

    def image_features(
        self,
        variables: Variables,
        text: Float[Array, "k c e"],
        features: Float[Array, "n _ b e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "_ _ b e"]:
        """The images' features, from the image tower's output; un-normalised."""
        return features

    def logits(
        self,
        variables: Variables,
        theta: Parameters,
        images: Float[Array, "n _ b e"],
        text: Float[Array, "_ c e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n _ b c"]:
        """The logits, from the features of images and classes."""
        return cosine_logits(theta, images, text)

    def penalty(
        self,
        variables: Variables,
        theta: Parameters,
        text: Text,
        noise: Mapping[str, Gaussian],
        weights: Float[Numbers, "b"],
    ) -> Float[Array, ""] | float:
        """A term that is added to the loss, in nats.

        Args:
            noise: the Gaussians that were drawn from, by site.
            weights: weights of the images.
        """
        return 0.0
