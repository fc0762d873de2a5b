"""The weights of a model of transformers in a model of keras-hub."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

Tensors = Mapping[str, np.ndarray]  # by transformers' names
# {part of a block: transformers' name for it}
BLOCKS = {
    "clip": {
        "layer_norm_1": "layer_norm1",
        "attention": "self_attn",
        "layer_norm_2": "layer_norm2",
        "dense_1": "mlp.fc1",
        "dense_2": "mlp.fc2",
    },
    "siglip": {name: name for name in ("layer_norm1", "self_attn", "layer_norm2", "mlp.fc1", "mlp.fc2")},
}
# {part of the backbone: transformers' name for it}, but for blocks
PARTS = {
    "clip": {
        "vision_encoder.embedding.class_embedding": "vision_model.embeddings.class_embedding",
        "vision_encoder.pre_layer_norm": "vision_model.pre_layrnorm",
        "vision_encoder.layer_norm": "vision_model.post_layernorm",
        "vision_projection": "visual_projection",
        "text_encoder.layer_norm": "text_model.final_layer_norm",
        "text_projection": "text_projection",
        "clip_head.logit_scale": "logit_scale",
    },
    "siglip": {
        "vision_encoder.post_layer_norm": "vision_model.post_layernorm",
        "vision_encoder.head.probe": "vision_model.head.probe",
        "vision_encoder.head.attention": "vision_model.head.attention",
        "vision_encoder.head.layer_norm": "vision_model.head.layernorm",
        "vision_encoder.head.mlp.fc1": "vision_model.head.mlp.fc1",
        "vision_encoder.head.mlp.fc2": "vision_model.head.mlp.fc2",
        "text_encoder.post_layer_norm": "text_model.final_layer_norm",
        "text_encoder.head": "text_model.head",
        "siglip_head.logit_scale": "logit_scale",
        "siglip_head.logit_bias": "logit_bias",
    },
}
EMBEDDINGS = {
    "vision_encoder.embedding.patch_embedding": "vision_model.embeddings.patch_embedding",
    "vision_encoder.embedding.position_embedding": "vision_model.embeddings.position_embedding",
    "text_encoder.embedding.token_embedding": "text_model.embeddings.token_embedding",
    "text_encoder.embedding.position_embedding": "text_model.embeddings.position_embedding",
}


def copy(backbone: keras.Model, tensors: Tensors, kind: str) -> None:
    """Assigns every weight of the backbone.

    Raises:
        ValueError: a weight is left, or a tensor is.
    """
    names = {**EMBEDDINGS, **PARTS[kind]}
    for ours, theirs in (("vision_encoder", "vision_model"), ("text_encoder", "text_model")):
        for i in range(len(getattr(backbone, ours).encoder_layers)):
            for part, name in BLOCKS[kind].items():
                names[f"{ours}.encoder_layers.{i}.{part}"] = f"{theirs}.encoder.layers.{i}.{name}"
    assigned, used = set(), set()
    for part, name in names.items():
        for variable, array, keys in _pairs(_part(backbone, part), name, tensors):
            variable.assign(array.reshape(variable.shape))
            assigned.add(variable.path)
            used.update(keys)
    positions = backbone.vision_encoder.embedding.position_ids
    positions.assign(np.arange(positions.shape[1])[None])
    left = {weight.path for weight in backbone.weights} - assigned - {positions.path}
    if left or used != set(tensors):
        raise ValueError(f"not copied: {sorted(left)[:3]} and {sorted(set(tensors) - used)[:3]}")


def _part(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = root[int(name)] if name.isdigit() else operator.attrgetter(name)(root)
    return root


Pair = tuple[Any, np.ndarray, tuple[str, ...]]  # a variable, what goes into it, and the tensors that it is made of


def _pairs(part: Any, name: str, tensors: Tensors) -> Iterator[Pair]:
    if isinstance(part, keras.layers.MultiHeadAttention):
        yield from _attention(part, name, tensors)
    elif isinstance(part, keras.layers.LayerNormalization):
        yield from _named(((part.gamma, "weight"), (part.beta, "bias")), name, tensors)
    elif isinstance(part, keras.layers.Conv2D):
        key = f"{name}.weight"
        yield part.kernel, tensors[key].transpose(2, 3, 1, 0), (key,)
        if part.use_bias:
            yield from _named([(part.bias, "bias")], name, tensors)
    elif isinstance(part, keras.layers.Dense):
        key = f"{name}.weight"
        yield part.kernel, tensors[key].T, (key,)
        if part.use_bias:
            yield from _named([(part.bias, "bias")], name, tensors)
    elif isinstance(part, keras.layers.Layer):  # an embedding of some class
        yield from _named([(part.weights[0], "weight")], name, tensors)
    else:
        yield part, tensors[name], (name,)


def _named(pairs: Iterable[tuple[Any, str]], name: str, tensors: Tensors) -> Iterator[Pair]:
    return ((variable, tensors[f"{name}.{key}"], (f"{name}.{key}",)) for variable, key in pairs)


def _attention(part: keras.layers.MultiHeadAttention, name: str, tensors: Tensors) -> Iterator[Pair]:
    """Queries, keys and values apart, or in one tensor."""
    denses = part.query_dense, part.key_dense, part.value_dense
    for kind, variable in (("weight", "kernel"), ("bias", "bias")):
        whole, apart = f"{name}.in_proj_{kind}", [f"{name}.{x}_proj.{kind}" for x in "qkv"]
        if whole in tensors:
            arrays, keys = np.split(tensors[whole], 3), [(whole,)] * 3
        else:
            arrays, keys = [tensors[key] for key in apart], [(key,) for key in apart]
        for dense, array, key in zip(denses, arrays, keys, strict=True):
            yield getattr(dense, variable), array.T, key
    key = f"{name}.out_proj.weight"
    yield part.output_dense.kernel, tensors[key].T, (key,)
    yield from _named([(part.output_dense.bias, "bias")], f"{name}.out_proj", tensors)
