"""Hugging Face's CLIP, SigLIP and SigLIP 2: their `config.json`, and the names of their tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pini_jax.clip.architecture import PIXELS, Architecture, Image, TextSizes, Transformer, check_number
from pini_jax.clip.checkpoints.weights import (
    LINEAR,
    LINEAR_OUT,
    PATCHES,
    SAME,
    VECTOR,
    Layout,
    Row,
    Scheme,
    dense,
    leading,
    norm,
)
from pini_jax.core.errors import InputError
from pini_jax.core.wording import quoted

# ------------------------------------------------------------------------------------------------ names


def _blocks(tower: str, model: str) -> list[Row]:
    blocks, layer = f"{tower}/blocks", f"{model}.encoder.layers.{{i}}"
    return [
        *norm(f"{blocks}/norm_1", f"{layer}.layer_norm1"),
        *dense(f"{blocks}/qkv", tuple(f"{layer}.self_attn.{x}_proj" for x in "qkv")),
        *dense(f"{blocks}/out", f"{layer}.self_attn.out_proj", LINEAR_OUT),
        *norm(f"{blocks}/norm_2", f"{layer}.layer_norm2"),
        *dense(f"{blocks}/mlp_in", f"{layer}.mlp.fc1"),
        *dense(f"{blocks}/mlp_out", f"{layer}.mlp.fc2"),
    ]


def _both_towers(patches: Layout) -> list[Row]:
    """What CLIP and SigLIP have in common."""
    return [
        *dense("image/patch_embedding", "vision_model.embeddings.patch_embedding", patches),
        Row("image/position", ("vision_model.embeddings.position_embedding.weight",), SAME),
        *_blocks("image", "vision_model"),
        *norm("image/norm_out", "vision_model.post_layernorm"),
        Row("text/token/embedding", ("text_model.embeddings.token_embedding.weight",), SAME),
        Row("text/position", ("text_model.embeddings.position_embedding.weight",), SAME),
        *_blocks("text", "text_model"),
        *norm("text/norm_out", "text_model.final_layer_norm"),
        Row("logit_scale", ("logit_scale",), SAME),
    ]


def _siglip(patches: Layout) -> Scheme:
    head = "vision_model.head"
    return Scheme(
        rows=(
            *_both_towers(patches),
            Row("image/head/probe", (f"{head}.probe",), leading(2)),
            *dense("image/head/qkv", f"{head}.attention.in_proj", join="_"),
            *dense("image/head/out", f"{head}.attention.out_proj", LINEAR_OUT),
            *norm("image/head/norm", f"{head}.layernorm"),
            *dense("image/head/mlp_in", f"{head}.mlp.fc1"),
            *dense("image/head/mlp_out", f"{head}.mlp.fc2"),
            *dense("text/projection", "text_model.head"),
            Row("logit_bias", ("logit_bias",), SAME),
        ),
        ignored=("embeddings.position_ids",),
    )


CLIP = Scheme(
    rows=(
        *_both_towers(PATCHES),
        Row("image/class_embedding", ("vision_model.embeddings.class_embedding",), VECTOR),
        *norm("image/norm_in", "vision_model.pre_layrnorm"),
        Row("image/projection/kernel", ("visual_projection.weight",), LINEAR),
        Row("text/projection/kernel", ("text_projection.weight",), LINEAR),
    ),
    ignored=("embeddings.position_ids",),
)
SIGLIP = _siglip(PATCHES)
SIGLIP2 = _siglip(LINEAR)  # its patches are cut, in the order of our kernel, before they are embedded

# ------------------------------------------------------------------------------------------------ config.json


class Kind(NamedTuple):
    """A model type: the names of its tensors, its image processor, and what its config.json may leave out."""

    scheme: Scheme
    processor: str
    text: Mapping[str, Any]
    image: Mapping[str, Any]


_BLOCKS = dict(intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_size=768)
_CLIP = dict(hidden_act="quick_gelu", layer_norm_eps=1e-5)
_SIGLIP = dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)
_SIGLIP_TEXT = _BLOCKS | _SIGLIP | dict(vocab_size=32000, max_position_embeddings=64)
_SIGLIP_IMAGE = _BLOCKS | _SIGLIP | dict(patch_size=16, vision_use_head=True)

# The defaults are those of transformers' configuration classes.
KINDS = {
    "clip": Kind(
        CLIP,
        "CLIPImageProcessor",
        text=_CLIP
        | dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8)
        | dict(vocab_size=49408, max_position_embeddings=77),
        image=_BLOCKS | _CLIP | dict(image_size=224, patch_size=32),
    ),
    "siglip": Kind(SIGLIP, "SiglipImageProcessor", _SIGLIP_TEXT, _SIGLIP_IMAGE | dict(image_size=224)),
    "siglip2": Kind(SIGLIP2, "Siglip2ImageProcessor", _SIGLIP_TEXT, _SIGLIP_IMAGE | dict(num_patches=256)),
}


def kind(config: Mapping[str, Any]) -> Kind:
    """What a `config.json` describes.

    Raises:
        InputError: another kind of model than those of `KINDS`.
    """
    name = config.get("model_type")
    if name not in KINDS:
        raise InputError(f"config.json describes a {quoted(name)} model, none of {', '.join(KINDS)}")
    return KINDS[name]


def read_hugging_face_config(config: Mapping[str, Any]) -> Architecture:
    """Reads the sizes from a `config.json`.

    Raises:
        InputError: the file describes another kind of model, or one without a feature for an image.
    """
    family = kind(config)
    for key in ("text_config", "text_config_dict", "vision_config", "vision_config_dict"):
        if not isinstance(config.get(key) or {}, Mapping):
            raise InputError(f"config.json: {key} must be an object")
    text, image = (
        {**defaults, **_section(config, name)}
        for name, defaults in (("text_config", family.text), ("vision_config", family.image))
    )
    if family.scheme is CLIP:
        return _clip_sizes(config, text, image)
    return _siglip_sizes(text, image, fixed=family.scheme is SIGLIP)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The older of two keys replaces the newer one, as in transformers."""
    older = config.get(f"{name}_dict")
    return (config.get(name) or {}) if older is None else older


def _transformer(section: Mapping[str, Any], causal: bool = False) -> Transformer:
    return Transformer(
        width=section["hidden_size"],
        layers=section["num_hidden_layers"],
        heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"],
        activation=section["hidden_act"],
        epsilon=section["layer_norm_eps"],
        causal=causal,
    )


def _clip_sizes(config: Mapping[str, Any], text: Mapping[str, Any], image: Mapping[str, Any]) -> Architecture:
    return Architecture(
        image=Image(image["image_size"], image["patch_size"], _transformer(image)),
        text=TextSizes(text["vocab_size"], text["max_position_embeddings"], _transformer(text, causal=True)),
        embed_dim=config.get("projection_dim", 512),
    )


def _siglip_sizes(text: Mapping[str, Any], image: Mapping[str, Any], fixed: bool) -> Architecture:
    if not image["vision_use_head"]:
        raise InputError("config.json: a SigLIP without vision_use_head has no feature for an image")
    if fixed:
        side = image["image_size"]
    else:
        # SigLIP 2 with free aspect ratios says how many patches a square has.
        check_number("num_patches", image["num_patches"], PIXELS**2)
        check_number("patch_size", image["patch_size"], PIXELS)
        side = math.isqrt(image["num_patches"]) * image["patch_size"]
    return Architecture(
        image=Image(
            image_size=side,
            patch_size=image["patch_size"],
            transformer=_transformer(image),
            pool="attention",
            class_token=False,
            patch_bias=True,
            norm_in=False,
            projection=False,
            filter="bicubic" if fixed else "linear",
        ),
        text=TextSizes(
            vocab_size=text["vocab_size"],
            context_length=text["max_position_embeddings"],
            transformer=_transformer(text),
            pool="last",
            projection_bias=True,
        ),
        embed_dim=text.get("projection_size") or text["hidden_size"],
        logit_bias=True,
    )


def write_config(architecture: Architecture, start_id: int, end_id: int) -> dict[str, Any]:
    """Writes the sizes of a CLIP as its `config.json`; inverse of `read_hugging_face_config`.

    Raises:
        InputError: the towers are no CLIP that Hugging Face has.
    """

    def section(transformer: Transformer) -> dict[str, Any]:
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
    written = dict(
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
    if read_hugging_face_config(written) != architecture:
        raise InputError("these towers are not those of Hugging Face's CLIP")
    return written
