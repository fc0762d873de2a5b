"""The injector alone, as one safetensors file that says what it belongs to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core.errors import InputError
from pini_jax.methods.method import Variables

KEY = "pini_jax"  # of the file's metadata


class Exported(NamedTuple):
    """A trained injector: what it knows, and what it was trained with."""

    variables: Variables
    config: Config
    class_names: tuple[str, ...]
    clip_sha256: str


def save(path: Path, variables: Variables, config: Config, class_names: Sequence[str], clip_sha256: str) -> None:
    """Writes variables at once, with their config, classes and the hash of the CLIP that they belong to."""
    described = {"config": configs.to_dict(config), "class_names": class_names, "clip_sha256": clip_sha256}
    trees = {key: tree for key, tree in variables._asdict().items() if tree}
    _write(path, flatten_dict(trees, sep="/"), described)


def save_embeddings(
    path: Path, embeddings: Float[np.ndarray, "c e"], logit_scale: float, class_names: Sequence[str]
) -> None:
    """Writes the classes' embeddings of unit norm: p(c | x) = softmax_c(logit_scale cos(V(x), embedding_c)).

    For whatever serves a CLIP already: it needs nothing else of this project.
    """
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    _write(
        path, {"embeddings": unit, "logit_scale": np.array(logit_scale, np.float32)}, {"class_names": class_names}
    )


def _write(path: Path, arrays: Mapping[str, np.ndarray], described: Mapping) -> None:
    tensors = {key: np.asarray(array, order="C") for key, array in arrays.items()}
    if jax.process_index():
        return  # the first process writes for all
    partial = path.with_name(f".{path.name}.partial")
    # One key: the library writes several in no fixed order, and equal runs make equal files.
    partial.write_bytes(safetensors.numpy.save(tensors, {KEY: json.dumps(described)}))
    os.replace(partial, path)


def load(path: Path) -> Exported:
    """Reads what `save` wrote.

    Raises:
        InputError: the file is missing, damaged, or holds no injector.
    """
    if not path.is_file():
        raise InputError(f"there is no injector {path}; a finished run writes injector.safetensors")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"injector {path} cannot be read ({error})") from None
    if KEY not in metadata:
        raise InputError(f"{path} holds no injector: its metadata has no {KEY!r}")
    try:
        described = json.loads(metadata[KEY])
        config, names, sha256 = (described[key] for key in ("config", "class_names", "clip_sha256"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no injector: its metadata is damaged ({error!r})") from None
    trees = unflatten_dict(tensors, sep="/")
    variables = Variables(trees.get("phi", {}), trees.get("buffers", {}))
    return Exported(variables, configs.resolve(config), tuple(names), sha256)
