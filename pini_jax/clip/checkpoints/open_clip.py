"""OpenAI's CLIPs, whose sizes are read from shapes, and open_clip's, which share their names and have a config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pini_jax.clip.architecture import Architecture, Image, ResNet, TextSizes, Transformer
from pini_jax.clip.checkpoints.weights import (
    CONV,
    LINEAR_OUT,
    PATCHES,
    SAME,
    VECTOR,
    Row,
    Scheme,
    Shape,
    dense,
    leading,
    norm,
)
from pini_jax.core.errors import InputError
from pini_jax.core.wording import plain, quoted

# ------------------------------------------------------------------------------------------------ names

IGNORED = ("input_resolution", "context_length", "vocab_size", "num_batches_tracked", "attn_mask")


def _blocks(tower: str, transformer: str) -> list[Row]:
    blocks, layer = f"{tower}/blocks", f"{transformer}.resblocks.{{i}}"
    return [
        *norm(f"{blocks}/norm_1", f"{layer}.ln_1"),
        *dense(f"{blocks}/qkv", f"{layer}.attn.in_proj", join="_"),
        *dense(f"{blocks}/out", f"{layer}.attn.out_proj", LINEAR_OUT),
        *norm(f"{blocks}/norm_2", f"{layer}.ln_2"),
        *dense(f"{blocks}/mlp_in", f"{layer}.mlp.c_fc"),
        *dense(f"{blocks}/mlp_out", f"{layer}.mlp.c_proj"),
    ]


def _text(prefix: str, projection_bias: bool) -> list[Row]:
    projection = f"{prefix}text_projection"
    return [
        Row("text/token/embedding", (f"{prefix}token_embedding.weight",), SAME),
        Row("text/position", (f"{prefix}positional_embedding",), SAME),
        *_blocks("text", f"{prefix}transformer"),
        *norm("text/norm_out", f"{prefix}ln_final"),
        *(
            dense("text/projection", projection)
            if projection_bias
            else [Row("text/projection/kernel", (projection,), SAME)]
        ),
        Row("logit_scale", ("logit_scale",), SAME),
        Row("logit_bias", ("logit_bias",), SAME),
    ]


VIT = (
    Row("image/class_embedding", ("visual.class_embedding",), VECTOR),
    Row("image/patch_embedding/kernel", ("visual.conv1.weight",), PATCHES),
    Row("image/position", ("visual.positional_embedding",), SAME),
    *norm("image/norm_in", "visual.ln_pre"),
    *_blocks("image", "visual.transformer"),
    *norm("image/norm_out", "visual.ln_post"),
    Row("image/projection/kernel", ("visual.proj",), SAME),
)


def _timm() -> list[Row]:
    """The image tower of a SigLIP, as the library timm names it."""
    trunk, blocks = "visual.trunk", "visual.trunk.blocks.{i}"
    return [
        *dense("image/patch_embedding", f"{trunk}.patch_embed.proj", PATCHES),
        Row("image/position", (f"{trunk}.pos_embed",), leading(1)),
        *norm("image/blocks/norm_1", f"{blocks}.norm1"),
        *dense("image/blocks/qkv", f"{blocks}.attn.qkv"),
        *dense("image/blocks/out", f"{blocks}.attn.proj", LINEAR_OUT),
        *norm("image/blocks/norm_2", f"{blocks}.norm2"),
        *dense("image/blocks/mlp_in", f"{blocks}.mlp.fc1"),
        *dense("image/blocks/mlp_out", f"{blocks}.mlp.fc2"),
        *norm("image/norm_out", f"{trunk}.norm"),
        Row("image/head/probe", (f"{trunk}.attn_pool.latent",), leading(2)),
        *dense("image/head/qkv", (f"{trunk}.attn_pool.q", f"{trunk}.attn_pool.kv"), shares=(1, 2)),
        *dense("image/head/out", f"{trunk}.attn_pool.proj", LINEAR_OUT),
        *norm("image/head/norm", f"{trunk}.attn_pool.norm"),
        *dense("image/head/mlp_in", f"{trunk}.attn_pool.mlp.fc1"),
        *dense("image/head/mlp_out", f"{trunk}.attn_pool.mlp.fc2"),
    ]


def _conv_norm(parameter: str, conv: str, batch_norm: str) -> list[Row]:
    return [
        Row(f"{parameter}/conv/kernel", (f"{conv}.weight",), CONV),
        *norm(f"{parameter}/norm", batch_norm),
        Row(f"{parameter}/norm/mean", (f"{batch_norm}.running_mean",), VECTOR),
        Row(f"{parameter}/norm/var", (f"{batch_norm}.running_var",), VECTOR),
    ]


def _resnet(sizes: ResNet) -> list[Row]:
    rows = [
        row for i in (1, 2, 3) for row in _conv_norm(f"image/stem_{i - 1}", f"visual.conv{i}", f"visual.bn{i}")
    ]
    places = [(stage, block) for stage, blocks in enumerate(sizes.layers, 1) for block in range(blocks)]
    for index, (stage, block) in enumerate(places):
        ours, theirs = f"image/blocks_{index}", f"visual.layer{stage}.{block}"
        for i in (1, 2, 3):
            rows += _conv_norm(f"{ours}/conv_{i}", f"{theirs}.conv{i}", f"{theirs}.bn{i}")
        rows += _conv_norm(f"{ours}/shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    rows.append(Row("image/pool/position", ("visual.attnpool.positional_embedding",), SAME))
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "c")):
        rows += dense(f"image/pool/{ours}", f"visual.attnpool.{theirs}_proj")
    return rows


def scheme(sizes: Architecture, keys: Sequence[str] = ()) -> Scheme:
    """OpenAI's names for these towers; `keys` of a file tell how open_clip nests them."""
    if isinstance(sizes.image, ResNet):
        image = _resnet(sizes.image)
    else:
        image = _timm() if sizes.image.pool == "attention" else list(VIT)
    prefix = "text." if "text.token_embedding.weight" in keys else ""
    return Scheme((*image, *_text(prefix, sizes.text.projection_bias)), IGNORED)


# ------------------------------------------------------------------------------------------------ shapes


def read_shapes(shapes: Mapping[str, Shape]) -> Architecture:
    """Infers the sizes from the shapes of a checkpoint of OpenAI's.

    Head width is 64, the MLP four times as wide as the stream and its activation quick_gelu in every model that
    OpenAI published: https://github.com/openai/CLIP/blob/main/clip/model.py (build_model).

    Raises:
        InputError: a tensor that the sizes are read from is missing, or no model of OpenAI has such sizes.
    """

    def shape(key: str, axes: int) -> Shape:
        if key not in shapes:
            raise InputError(f"no CLIP with OpenAI's parameter names: tensor {key!r} is missing")
        if len(shapes[key]) != axes:
            given = quoted(list(shapes[key]))
            raise InputError(f"no CLIP with OpenAI's parameter names: {key!r} has shape {given}")
        return shapes[key]

    def transformer(prefix: str, width: int, causal: bool) -> Transformer:
        if width % 64 or width > 1024:
            raise InputError(
                f"OpenAI published no CLIP of width {width} (heads of 64 channels, at most 1024 in all): put the "
                "model's open_clip_config.json beside its weights"
            )
        pattern = re.compile(re.escape(prefix) + r"\.resblocks\.(\d+)\.")
        layers = {match[1] for key in shapes if (match := pattern.match(key))}
        return Transformer(width, len(layers), width // 64, 4 * width, causal=causal)

    def vit() -> Image:
        width, _, patch_size, _ = shape("visual.conv1.weight", 4)
        grid = round((shape("visual.positional_embedding", 2)[0] - 1) ** 0.5)
        return Image(grid * patch_size, patch_size, transformer("visual.transformer", width, causal=False))

    def resnet() -> ResNet:
        width = shape("visual.layer1.0.conv1.weight", 4)[0]
        places = round((shape("visual.attnpool.positional_embedding", 2)[0] - 1) ** 0.5)
        blocks = {tuple(key.split(".")[1:3]) for key in shapes if key.startswith("visual.layer")}
        layers = tuple(sum(stage == f"layer{i}" for stage, _ in blocks) for i in range(1, 5))
        return ResNet(places * 32, width, layers, heads=width * 32 // 64)

    text_width, embed_dim = shape("text_projection", 2)
    return Architecture(
        image=resnet() if "visual.attnpool.positional_embedding" in shapes else vit(),
        text=TextSizes(
            shape("token_embedding.weight", 2)[0],
            shape("positional_embedding", 2)[0],
            transformer("transformer", text_width, causal=True),
        ),
        embed_dim=embed_dim,
        logit_bias="logit_bias" in shapes,
    )


# ------------------------------------------------------------------------------------------------ config


class Trunk(NamedTuple):
    """What the name of a timm model says, but its weights do not."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str


# timm's SigLIP towers; one ending in a number of this table is that one, whatever the image size.
TRUNKS = {
    "vit_base_patch16_siglip": Trunk(768, 12, 12, 3072, "gelu"),
    "vit_base_patch32_siglip": Trunk(768, 12, 12, 3072, "gelu_pytorch_tanh"),
    "vit_large_patch16_siglip": Trunk(1024, 24, 16, 4096, "gelu"),
    "vit_large_patch16_siglip_512": Trunk(1024, 24, 16, 4096, "gelu_pytorch_tanh"),
    "vit_so400m_patch14_siglip": Trunk(1152, 27, 16, 4304, "gelu"),
    "vit_so400m_patch16_siglip": Trunk(1152, 27, 16, 4304, "gelu_pytorch_tanh"),
    "vit_giantopt_patch16_siglip": Trunk(1536, 40, 16, 6144, "gelu_pytorch_tanh"),
}

# open_clip's defaults for what is read here; a key that is neither here nor harmless is refused.
IMAGE = dict(
    image_size=224,
    layers=12,
    width=768,
    head_width=64,
    mlp_ratio=4.0,
    patch_size=16,
    no_ln_pre=False,
    final_ln_after_pool=False,
    pool_type="tok",
    act_kwargs=None,
    norm_kwargs=None,
    timm_model_name=None,
)
TEXT = dict(
    context_length=77,
    vocab_size=49408,
    width=512,
    heads=8,
    layers=12,
    mlp_ratio=4.0,
    no_causal_mask=False,
    pool_type="argmax",
    proj_bias=False,
    act_kwargs=None,
    norm_kwargs=None,
)
# What changes no feature, and what does but is not built: fine where it has this value.
HARMLESS = (
    *("patch_dropout", "output_tokens", "timm_model_pretrained", "timm_drop", "timm_drop_path", "timm_proj_bias"),
    *("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "pad_id", "eos_id", "hf_model_pretrained"),
    *("attn_pooler_queries", "attn_pooler_heads", "hf_proj_type", "hf_pooler_type"),
)
NOT_BUILT = dict(
    ls_init_value=None,
    attentional_pool=False,
    pos_embed_type="learnable",
    block_type=None,
    qk_norm=False,
    scaled_cosine_attn=False,
    scale_heads=False,
    scale_attn_inner=False,
    scale_attn=False,
    scale_fc=False,
    embed_cls=False,
    hf_model_name=None,
    proj_type="linear",
    timm_pool="map",
    timm_proj="none",
)
TEXT_POOLS = {"argmax": "end", "eos": "end", "last": "last"}


def _section(name: str, given: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InputError(f"open_clip_config.json: {name} must be an object")
    for key, value in given.items():
        known = key in defaults or key in HARMLESS or (key in NOT_BUILT and value in (NOT_BUILT[key], ""))
        if not known:
            raise InputError(f"open_clip_config.json: {name}.{plain(key)}={quoted(value)} is not supported")
        # A text or a list times a number would be as long as that number says.
        if type(defaults.get(key)) in (int, float) and isinstance(value, str | list) and key != "layers":
            raise InputError(f"open_clip_config.json: {name}.{key} must be a number, not {quoted(value)}")
    return {**defaults, **given}


def read_open_clip_config(config: Mapping[str, Any]) -> Architecture:
    """Reads the sizes from an `open_clip_config.json`.

    Raises:
        InputError: the file describes a model that is not built here; the message names what.
    """
    model = config.get("model_cfg")
    if not isinstance(model, Mapping) or "embed_dim" not in model:
        raise InputError("open_clip_config.json has no model_cfg with an embed_dim")
    image = _section("vision_cfg", model.get("vision_cfg"), IMAGE)
    text = _section("text_cfg", model.get("text_cfg"), TEXT)
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    if text["pool_type"] not in TEXT_POOLS:
        raise InputError(f"open_clip_config.json: text_cfg.pool_type={quoted(text['pool_type'])} is not supported")
    return Architecture(
        image=_image(image, activation),
        text=TextSizes(
            vocab_size=text["vocab_size"],
            context_length=text["context_length"],
            transformer=_transformer(text, text["heads"], activation, causal=not text["no_causal_mask"]),
            pool=TEXT_POOLS[text["pool_type"]],
            projection_bias=text["proj_bias"],
        ),
        embed_dim=model["embed_dim"],
        logit_bias=model.get("init_logit_bias") is not None,
    )


def _transformer(section: Mapping[str, Any], heads: int, activation: str, causal: bool = False) -> Transformer:
    options = section["act_kwargs"] or {}
    if activation == "gelu" and options.get("approximate") == "tanh":
        activation = "gelu_pytorch_tanh"
    return Transformer(
        width=section["width"],
        layers=section["layers"],
        heads=heads,
        mlp_width=int(section["width"] * section["mlp_ratio"]),
        activation=activation,
        epsilon=(section["norm_kwargs"] or {}).get("eps", 1e-5),
        causal=causal,
    )


def _image(section: Mapping[str, Any], activation: str) -> Image | ResNet:
    if section["timm_model_name"]:
        return _trunk(section["timm_model_name"], section["image_size"])
    if isinstance(section["layers"], Sequence):
        heads = section["width"] * 32 // section["head_width"]
        return ResNet(section["image_size"], section["width"], tuple(section["layers"]), heads)
    pools = {
        ("tok", False): "class",
        ("tok", True): "class",
        ("avg", True): "mean",
        ("avg", False): "mean_of_norms",
    }
    pool = section["pool_type"], bool(section["final_ln_after_pool"])
    if pool not in pools:
        raise InputError(f"open_clip_config.json: vision_cfg.pool_type={quoted(pool[0])} is not supported")
    return Image(
        image_size=section["image_size"],
        patch_size=section["patch_size"],
        transformer=_transformer(section, section["width"] // section["head_width"], activation),
        pool=pools[pool],
        norm_in=not section["no_ln_pre"],
    )


def _trunk(name: str, image_size: int) -> Image:
    prefixes = [prefix for prefix in TRUNKS if name == prefix or re.fullmatch(rf"{prefix}(_\d+)?", name)]
    if not prefixes:
        raise InputError(f"open_clip_config.json: the timm model {quoted(name)} is none of SigLIP's")
    trunk = TRUNKS[max(prefixes, key=len)]
    return Image(
        image_size=image_size,
        patch_size=int(re.findall(r"patch(\d+)", name)[0]),
        transformer=Transformer(
            trunk.width, trunk.layers, trunk.heads, trunk.mlp_width, trunk.activation, epsilon=1e-6
        ),
        pool="attention",
        class_token=False,
        patch_bias=True,
        norm_in=False,
        projection=False,
    )
