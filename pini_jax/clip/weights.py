"""Checkpoint tensors <-> parameters: one table per naming scheme, strict in both directions.

A row of a table says which tensors of the file become which parameter, and in what layout. Several tensors in
one row are joined along their first axis; `{i}` stands for the number of a layer, and the layers of one row are
stacked into the leading axis of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from pini_jax.clip import towers
from pini_jax.clip.architecture import Architecture, ResNet
from pini_jax.clip.tensors import Tensors
from pini_jax.errors import InputError

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How a tensor of the file is laid out, given the shape of the parameter it becomes.

    Attributes:
        shape: shape of the parameter -> shape of the tensor.
        load: tensor -> the parameter, up to a reshape.
        save: (parameter, shape of the tensor) -> tensor.
    """

    shape: Callable[[Shape], Shape]
    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray, Shape], np.ndarray]


def _linear(inputs: int) -> Layout:
    """PyTorch's Linear weight [out, in]; the parameter has `inputs` leading input axes."""
    return Layout(
        shape=lambda s: (math.prod(s[inputs:]), math.prod(s[:inputs])),
        load=np.transpose,
        save=lambda x, s: x.reshape(s[::-1]).T,
    )


def _patches_shape(s: Shape) -> Shape:
    patch = math.isqrt(s[0] // 3)
    return s[1], 3, patch, patch


SAME = Layout(shape=lambda s: s, load=lambda x: x, save=lambda x, s: x)
VECTOR = Layout(shape=lambda s: (math.prod(s),), load=lambda x: x, save=lambda x, s: x.reshape(s))
LINEAR = _linear(inputs=1)
LINEAR_OUT = _linear(inputs=2)
CONV = Layout(
    shape=lambda s: (s[3], s[2], s[0], s[1]),
    load=lambda x: x.transpose(2, 3, 1, 0),
    save=lambda x, s: x.transpose(3, 2, 0, 1),
)
PATCHES = Layout(
    shape=_patches_shape,
    load=CONV.load,
    save=lambda x, s: CONV.save(x.reshape(s[2], s[3], s[1], s[0]), s),
)


class Row(NamedTuple):
    """The tensors `keys` of the file, joined, become `parameter` (a slash-separated path)."""

    parameter: str
    keys: tuple[str, ...]
    layout: Layout


class Scheme(NamedTuple):
    """A naming scheme: its rows, and the endings of keys that hold no parameter."""

    rows: tuple[Row, ...]
    ignored: tuple[str, ...]


def _norm(parameter: str, key: str) -> list[Row]:
    return [
        Row(f"{parameter}/scale", (f"{key}.weight",), VECTOR),
        Row(f"{parameter}/bias", (f"{key}.bias",), VECTOR),
    ]


def _dense(parameter: str, keys: str | Sequence[str], layout: Layout = LINEAR, join: str = ".") -> list[Row]:
    keys = (keys,) if isinstance(keys, str) else keys
    return [
        Row(f"{parameter}/kernel", tuple(f"{key}{join}weight" for key in keys), layout),
        Row(f"{parameter}/bias", tuple(f"{key}{join}bias" for key in keys), VECTOR),
    ]


def _hugging_face_blocks(tower: str, model: str) -> list[Row]:
    blocks, layer = f"{tower}/blocks", f"{model}.encoder.layers.{{i}}"
    return [
        *_norm(f"{blocks}/norm_1", f"{layer}.layer_norm1"),
        *_dense(f"{blocks}/qkv", [f"{layer}.self_attn.{x}_proj" for x in "qkv"]),
        *_dense(f"{blocks}/out", f"{layer}.self_attn.out_proj", LINEAR_OUT),
        *_norm(f"{blocks}/norm_2", f"{layer}.layer_norm2"),
        *_dense(f"{blocks}/mlp_in", f"{layer}.mlp.fc1"),
        *_dense(f"{blocks}/mlp_out", f"{layer}.mlp.fc2"),
    ]


def _openai_blocks(tower: str, transformer: str) -> list[Row]:
    blocks, layer = f"{tower}/blocks", f"{transformer}.resblocks.{{i}}"
    return [
        *_norm(f"{blocks}/norm_1", f"{layer}.ln_1"),
        *_dense(f"{blocks}/qkv", f"{layer}.attn.in_proj", join="_"),
        *_dense(f"{blocks}/out", f"{layer}.attn.out_proj", LINEAR_OUT),
        *_norm(f"{blocks}/norm_2", f"{layer}.ln_2"),
        *_dense(f"{blocks}/mlp_in", f"{layer}.mlp.c_fc"),
        *_dense(f"{blocks}/mlp_out", f"{layer}.mlp.c_proj"),
    ]


HUGGING_FACE = Scheme(
    rows=(
        Row("image/class_embedding", ("vision_model.embeddings.class_embedding",), VECTOR),
        Row("image/patch_embedding/kernel", ("vision_model.embeddings.patch_embedding.weight",), PATCHES),
        Row("image/position", ("vision_model.embeddings.position_embedding.weight",), SAME),
        *_norm("image/norm_in", "vision_model.pre_layrnorm"),
        *_hugging_face_blocks("image", "vision_model"),
        *_norm("image/norm_out", "vision_model.post_layernorm"),
        Row("image/projection/kernel", ("visual_projection.weight",), LINEAR),
        Row("text/token/embedding", ("text_model.embeddings.token_embedding.weight",), SAME),
        Row("text/position", ("text_model.embeddings.position_embedding.weight",), SAME),
        *_hugging_face_blocks("text", "text_model"),
        *_norm("text/norm_out", "text_model.final_layer_norm"),
        Row("text/projection/kernel", ("text_projection.weight",), LINEAR),
        Row("logit_scale", ("logit_scale",), SAME),
    ),
    ignored=("embeddings.position_ids",),
)


def _openai_vit() -> list[Row]:
    return [
        Row("image/class_embedding", ("visual.class_embedding",), VECTOR),
        Row("image/patch_embedding/kernel", ("visual.conv1.weight",), PATCHES),
        Row("image/position", ("visual.positional_embedding",), SAME),
        *_norm("image/norm_in", "visual.ln_pre"),
        *_openai_blocks("image", "visual.transformer"),
        *_norm("image/norm_out", "visual.ln_post"),
        Row("image/projection/kernel", ("visual.proj",), SAME),
    ]


def _conv_norm(parameter: str, conv: str, norm: str) -> list[Row]:
    return [
        Row(f"{parameter}/conv/kernel", (f"{conv}.weight",), CONV),
        *_norm(f"{parameter}/norm", norm),
        Row(f"{parameter}/norm/mean", (f"{norm}.running_mean",), VECTOR),
        Row(f"{parameter}/norm/var", (f"{norm}.running_var",), VECTOR),
    ]


def _openai_resnet(sizes: ResNet) -> list[Row]:
    rows = [
        row for i in (1, 2, 3) for row in _conv_norm(f"image/stem_{i - 1}", f"visual.conv{i}", f"visual.bn{i}")
    ]
    places = [(stage, block) for stage, blocks in enumerate(sizes.layers, 1) for block in range(blocks)]
    for index, (stage, block) in enumerate(places):
        ours, theirs = f"image/blocks_{index}", f"visual.layer{stage}.{block}"
        for i in (1, 2, 3):
            rows += _conv_norm(f"{ours}/conv_{i}", f"{theirs}.conv{i}", f"{theirs}.bn{i}")
        if block == 0:
            rows += _conv_norm(f"{ours}/shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    rows.append(Row("image/pool/position", ("visual.attnpool.positional_embedding",), SAME))
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "c")):
        rows += _dense(f"image/pool/{ours}", f"visual.attnpool.{theirs}_proj")
    return rows


def openai(sizes: Architecture) -> Scheme:
    """OpenAI's names, for a ViT or a ModifiedResNet."""
    return Scheme(
        rows=(
            *(_openai_resnet(sizes.image) if isinstance(sizes.image, ResNet) else _openai_vit()),
            Row("text/token/embedding", ("token_embedding.weight",), SAME),
            Row("text/position", ("positional_embedding",), SAME),
            *_openai_blocks("text", "transformer"),
            *_norm("text/norm_out", "ln_final"),
            Row("text/projection/kernel", ("text_projection",), SAME),
            Row("logit_scale", ("logit_scale",), SAME),
        ),
        ignored=("input_resolution", "context_length", "vocab_size", "num_batches_tracked"),
    )


def parameter_shapes(sizes: Architecture) -> dict[str, Shape]:
    """Shapes of all parameters, by slash-separated path; allocates nothing."""
    pixels = jnp.zeros((1, sizes.image.image_size, sizes.image.image_size, 3))
    ids = jnp.zeros((1, sizes.text.context_length), int)
    init = towers.Towers(sizes).init
    tree = jax.eval_shape(init, jax.random.key(0), pixels, ids, jnp.zeros(1, int))["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


class _Slot(NamedTuple):
    """One row at one layer: which keys it reads, the tensors' shape, and where it goes (None: not stacked)."""

    row: Row
    keys: tuple[str, ...]
    tensor_shape: Shape
    layer: int | None


def _slots(scheme: Scheme, shapes: Mapping[str, Shape]) -> Iterator[_Slot]:
    for row in scheme.rows:
        shape = shapes[row.parameter]
        stacked = "{i}" in row.keys[0]
        for i in range(shape[0]) if stacked else [None]:
            keys = tuple(key.format(i=i) for key in row.keys)
            first, *rest = row.layout.shape(shape[1:] if stacked else shape) or (None,)
            tensor_shape = () if first is None else (first // len(keys), *rest)
            yield _Slot(row, keys, tensor_shape, i)


def _check(scheme: Scheme, slots: Sequence[_Slot], tensors: Tensors, name: str) -> None:
    expected = {key: slot.tensor_shape for slot in slots for key in slot.keys}
    present = {key for key in tensors if not key.endswith(scheme.ignored)}
    wrong = [
        f"{key} has shape {list(tensors[key].shape)}, not {list(shape)}"
        for key, shape in expected.items()
        # OpenAI's archives store the scalar temperature with or without an axis.
        if key in present and tensors[key].shape != shape and not (shape == () and tensors[key].shape == (1,))
    ]
    problems = [f"missing tensor {key}" for key in expected if key not in present]
    problems += [f"unknown tensor {key}" for key in sorted(present - expected.keys())]
    problems += wrong
    if problems:
        raise InputError(f"{name} does not hold this CLIP ({len(problems)} problems): " + "; ".join(problems))


def load(scheme: Scheme, sizes: Architecture, tensors: Tensors, dtype: jnp.dtype, name: str) -> dict:
    """Reads the parameters of a CLIP, one at a time from file to device.

    Args:
        dtype: of every parameter but the temperature, which stays in float32.
        name: what error messages call the checkpoint.

    Raises:
        InputError: a tensor is missing, unknown or of another shape; the message lists all of them.
    """
    shapes = parameter_shapes(sizes)
    slots = list(_slots(scheme, shapes))
    _check(scheme, slots, tensors, name)
    parameters: dict[str, jax.Array] = {}
    for row in scheme.rows:
        value = np.empty(shapes[row.parameter], np.float32 if row.parameter == "logit_scale" else dtype)
        for slot in (slot for slot in slots if slot.row is row):
            joined = np.concatenate([np.atleast_1d(tensors[key].read()) for key in slot.keys])
            target = value if slot.layer is None else value[slot.layer]
            target[...] = row.layout.load(joined).reshape(target.shape)
        parameters[row.parameter] = jax.device_put(value)
    return unflatten_dict(parameters, sep="/")


def save(path: Path, scheme: Scheme, theta: Mapping) -> None:
    """Writes parameters as a safetensors file of the given scheme; inverse of `load`."""
    flat = {path: np.asarray(leaf) for path, leaf in flatten_dict(theta, sep="/").items()}
    tensors = {}
    for slot in _slots(scheme, {path: leaf.shape for path, leaf in flat.items()}):
        value = flat[slot.row.parameter]
        value = value if slot.layer is None else value[slot.layer]
        if not slot.tensor_shape:
            tensors[slot.keys[0]] = value
            continue
        shape = (slot.tensor_shape[0] * len(slot.keys), *slot.tensor_shape[1:])
        parts = np.split(slot.row.layout.save(value, shape), len(slot.keys))
        tensors |= {key: np.ascontiguousarray(part) for key, part in zip(slot.keys, parts, strict=True)}
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
