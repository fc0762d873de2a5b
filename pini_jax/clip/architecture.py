"""What a CLIP is made of: sizes only, no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pini_jax.core.errors import InputError
from pini_jax.core.wording import quoted

# The largest sizes that are built, some four times those of any CLIP: a file can ask for no more.
CHANNELS = 1 << 20  # of any axis of a tensor: channels, tokens
PIXELS = 1 << 14  # of an image's side
LAYERS = 1 << 8
BLOCKS = 1 << 6  # of a stage of a ResNet


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Sizes of a stack of pre-norm residual blocks.

    Attributes:
        width: d, channels of the residual stream.
        layers: number of blocks.
        heads: attention heads; each has width / heads channels.
        mlp_width: channels of the hidden layer of the MLP.
        activation: name of the MLP's non-linearity, a key of `towers.ACTIVATIONS`.
        epsilon: added to the variance in layer norm.
        causal: whether a token attends to itself and earlier ones only.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    causal: bool = False


@dataclasses.dataclass(frozen=True)
class Image:
    """A ViT over square images of image_size pixels, cut in patches of patch_size; what is left over is dropped.

    Attributes:
        pool: how tokens become one: `class` (the class token), `mean` (of the patches), `mean_of_norms` (the same
            after the last norm instead of before), or `attention` (SigLIP's pooling head).
        class_token: whether one stands before the patches.
        patch_bias: whether the embedding of patches has a bias.
        norm_in: whether there is a norm before the first block.
        projection: whether a linear map leads into the joint space.
        filter: how positions are resampled for another image size, a key of `positions.FILTERS`.
    """

    image_size: int
    patch_size: int
    transformer: Transformer
    pool: str = "class"
    class_token: bool = True
    patch_bias: bool = False
    norm_in: bool = True
    projection: bool = True
    filter: str = "bicubic"

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """n, patches of an image."""
        return self.grid**2


@dataclasses.dataclass(frozen=True)
class ResNet:
    """A ModifiedResNet over square images of image_size pixels.

    Attributes:
        width: channels of the first stage's blocks; every stage doubles them.
        layers: number of blocks in each of the four stages.
        heads: of the attention pooling.
        filter: as in `Image`.
    """

    image_size: int
    width: int
    layers: tuple[int, ...]
    heads: int
    filter: str = "bicubic"

    @property
    def grid(self) -> int:
        """Places along one side of the last feature map."""
        return (self.image_size + 1) // 32  # the first convolution rounds up


@dataclasses.dataclass(frozen=True)
class TextSizes:
    """A transformer over at most context_length tokens.

    Attributes:
        pool: which token becomes the feature: `end` (the end token), or `last` (of the padded sequence).
        projection_bias: whether the map into the joint space has a bias.
    """

    vocab_size: int
    context_length: int
    transformer: Transformer
    pool: str = "end"
    projection_bias: bool = False


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Two towers that end in a joint space of embed_dim channels.

    Attributes:
        logit_bias: whether logits have a bias, as those of a sigmoid loss do (SigLIP).
    """

    image: Image | ResNet
    text: TextSizes
    embed_dim: int
    logit_bias: bool = False


def check_number(name: str, value: object, most: int) -> None:
    """Raises InputError unless it is a whole number from 1 to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(f"the CLIP's {name} is {quoted(value)}, not a whole number from 1 to {most:,}")


def check_sizes(sizes: Architecture, known_activations: Iterable[str]) -> None:
    """Raises InputError unless every size is a number from 1 to its limit, and divides what it must."""
    image, text = sizes.image, sizes.text
    numbers = {
        "image_size": (image.image_size, PIXELS),
        "vocab_size": (text.vocab_size, CHANNELS),
        "max_position_embeddings": (text.context_length, CHANNELS),
        "projection_dim": (sizes.embed_dim, CHANNELS),
    }
    transformers = {"text": text.transformer}
    if isinstance(image, Image):
        transformers["vision"] = image.transformer
        numbers["patch_size"] = image.patch_size, PIXELS
    else:
        numbers |= {"vision width": (image.width, CHANNELS), "vision heads": (image.heads, CHANNELS)}
        numbers |= {f"blocks of stage {i}": (blocks, BLOCKS) for i, blocks in enumerate(image.layers[:4], 1)}
    for tower, transformer in transformers.items():
        numbers[f"{tower} layers"] = transformer.layers, LAYERS
        for name in ("width", "heads", "mlp_width"):
            numbers[f"{tower} {name}"] = getattr(transformer, name), CHANNELS
        _check_transformer(tower, transformer, known_activations)
    for name, (value, most) in numbers.items():
        check_number(name, value, most)
    divisions = [(tower, x.width, x.heads) for tower, x in transformers.items()]
    divisions += [("vision", 32 * image.width, image.heads)] if isinstance(image, ResNet) else []
    for tower, width, heads in divisions:
        if width % heads:
            raise InputError(f"the {tower} tower's {heads} heads do not divide {width}")
    if image.grid < 1:
        raise InputError(f"images of {image.image_size} pixels are too small for the CLIP's image tower")
    if isinstance(image, ResNet) and len(image.layers) != 4:
        raise InputError(f"a ModifiedResNet has four stages, not {len(image.layers)}")
    if isinstance(image, Image) and not image.projection and image.transformer.width != sizes.embed_dim:
        raise InputError(
            f"an image tower of width {image.transformer.width} without a projection cannot meet text features of "
            f"{sizes.embed_dim} channels"
        )


def _check_transformer(tower: str, transformer: Transformer, known_activations: Iterable[str]) -> None:
    known, epsilon = tuple(known_activations), transformer.epsilon
    if transformer.activation not in known:
        raise InputError(
            f"the {tower} tower's activation {quoted(transformer.activation)} is none of {', '.join(known)}"
        )
    if not isinstance(epsilon, (int, float)) or isinstance(epsilon, bool) or not 0 <= epsilon < 1:
        raise InputError(f"the {tower} tower's layer_norm_eps is {quoted(epsilon)}, not a small positive number")
