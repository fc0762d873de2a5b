"""What a CLIP is made of: sizes only, no weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from pini_jax.errors import InputError


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
    """A ViT over square images of image_size pixels, cut in patches of patch_size."""

    image_size: int
    patch_size: int
    transformer: Transformer

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class ResNet:
    """A ModifiedResNet over square images of image_size pixels, a multiple of 32.

    Attributes:
        width: channels of the first stage's blocks; every stage doubles them.
        layers: number of blocks in each of the four stages.
        heads: of the attention pooling.
    """

    image_size: int
    width: int
    layers: tuple[int, ...]
    heads: int


@dataclasses.dataclass(frozen=True)
class Text:
    """A causal transformer over at most context_length tokens."""

    vocab_size: int
    context_length: int
    transformer: Transformer


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Two towers that end in a joint space of embed_dim channels."""

    image: Image | ResNet
    text: Text
    embed_dim: int


# The defaults of transformers' CLIPConfig: a config.json may leave out what equals them.
_HF_TEXT = dict(
    vocab_size=49408,
    hidden_size=512,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=8,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
_HF_IMAGE = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=224,
    patch_size=32,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)


def _hf_transformer(section: Mapping, causal: bool) -> Transformer:
    return Transformer(
        width=section["hidden_size"],
        layers=section["num_hidden_layers"],
        heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"],
        activation=section["hidden_act"],
        epsilon=section["layer_norm_eps"],
        causal=causal,
    )


def from_hugging_face(config: Mapping) -> Architecture:
    """Reads the sizes from the `config.json` of a Hugging Face CLIP.

    Raises:
        InputError: the file describes another kind of model.
    """
    if config.get("model_type") != "clip":
        raise InputError(f"config.json describes a {config.get('model_type')!r} model, not 'clip'")
    for key in ("text_config", "text_config_dict", "vision_config", "vision_config_dict"):
        if not isinstance(config.get(key) or {}, Mapping):
            raise InputError(f"config.json: {key} must be an object")
    text = _HF_TEXT | (config.get("text_config") or {}) | (config.get("text_config_dict") or {})
    image = _HF_IMAGE | (config.get("vision_config") or {}) | (config.get("vision_config_dict") or {})
    return Architecture(
        image=Image(image["image_size"], image["patch_size"], _hf_transformer(image, causal=False)),
        text=Text(text["vocab_size"], text["max_position_embeddings"], _hf_transformer(text, causal=True)),
        embed_dim=config.get("projection_dim", 512),
    )


def to_hugging_face(architecture: Architecture, start_id: int, end_id: int) -> dict:
    """Writes the sizes as the `config.json` of a Hugging Face CLIP; inverse of `from_hugging_face`."""

    def section(transformer: Transformer) -> dict:
        return dict(
            hidden_size=transformer.width,
            intermediate_size=transformer.mlp_width,
            num_hidden_layers=transformer.layers,
            num_attention_heads=transformer.heads,
            hidden_act=transformer.activation,
            layer_norm_eps=transformer.epsilon,
            projection_dim=architecture.embed_dim,
        )

    image, text = architecture.image, architecture.text
    if not isinstance(image, Image):
        raise InputError("Hugging Face's CLIP has no residual image tower")
    return dict(
        architectures=["CLIPModel"],
        model_type="clip",
        projection_dim=architecture.embed_dim,
        vision_config=section(image.transformer)
        | dict(model_type="clip_vision_model", image_size=image.image_size, patch_size=image.patch_size),
        text_config=section(text.transformer)
        | dict(
            model_type="clip_text_model",
            vocab_size=text.vocab_size,
            max_position_embeddings=text.context_length,
            bos_token_id=start_id,
            eos_token_id=end_id,
            pad_token_id=end_id,
        ),
    )


def check(sizes: Architecture, known_activations: Iterable[str]) -> None:
    """Raises InputError unless every size is a positive number, and those that must divide another one do."""
    image, text = sizes.image, sizes.text
    numbers = {
        "image_size": image.image_size,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "projection_dim": sizes.embed_dim,
    }
    divisions = []
    transformers = [("text", text.transformer)]
    if isinstance(image, Image):
        transformers.append(("vision", image.transformer))
        numbers["patch_size"] = image.patch_size
        divisions.append((image.image_size, image.patch_size))
    for tower, transformer in transformers:
        for name in ("width", "layers", "heads", "mlp_width"):
            numbers[f"{tower} {name}"] = getattr(transformer, name)
        if transformer.activation not in known_activations:
            known = ", ".join(known_activations)
            raise InputError(f"activation {transformer.activation!r} is none of {known}")
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"the CLIP's {name} is {value!r}, not a positive number")
    divisions += [(transformer.width, transformer.heads) for _, transformer in transformers]
    for whole, part in divisions:
        if whole % part:
            raise InputError(f"{part} heads or pixels of a patch do not divide {whole}")


def from_openai(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """Infers the sizes from the shapes of a checkpoint with OpenAI's parameter names.

    Head width is 64 and the MLP four times as wide as the stream in every model that OpenAI published:
    https://github.com/openai/CLIP/blob/main/clip/model.py (build_model).

    Raises:
        InputError: a tensor that the sizes are read from is missing.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in shapes:
            raise InputError(f"no CLIP with OpenAI's parameter names: tensor {key!r} is missing")
        return shapes[key]

    def transformer(prefix: str, width: int, causal: bool) -> Transformer:
        if width % 64:
            raise InputError(f"OpenAI's CLIPs have heads of 64 channels, which do not divide the width {width}")
        pattern = re.compile(re.escape(prefix) + r"\.resblocks\.(\d+)\.")
        layers = {match[1] for key in shapes if (match := pattern.match(key))}
        return Transformer(width, len(layers), width // 64, 4 * width, causal=causal)

    def vit() -> Image:
        width, _, patch_size, _ = shape("visual.conv1.weight")
        grid = round((shape("visual.positional_embedding")[0] - 1) ** 0.5)
        return Image(grid * patch_size, patch_size, transformer("visual.transformer", width, causal=False))

    def resnet() -> ResNet:
        width = shape("visual.layer1.0.conv1.weight")[0]
        places = round((shape("visual.attnpool.positional_embedding")[0] - 1) ** 0.5)
        blocks = {tuple(key.split(".")[1:3]) for key in shapes if key.startswith("visual.layer")}
        layers = tuple(sum(stage == f"layer{i}" for stage, _ in blocks) for i in range(1, 5))
        return ResNet(places * 32, width, layers, heads=width * 32 // 64)

    text_width, embed_dim = shape("text_projection")
    return Architecture(
        image=resnet() if "visual.attnpool.positional_embedding" in shapes else vit(),
        text=Text(
            shape("token_embedding.weight")[0],
            shape("positional_embedding")[0],
            transformer("transformer", text_width, causal=True),
        ),
        embed_dim=embed_dim,
    )
