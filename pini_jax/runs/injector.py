"""The injector alone, as one safetensors file that says what it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from pini_jax import config as configs
from pini_jax import plugins
from pini_jax.config import Config
from pini_jax.core import copies, hub_client, paths
from pini_jax.core.bucket import is_url
from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed
from pini_jax.evaluate import doubt
from pini_jax.evaluate.doubt import Doubt
from pini_jax.methods.method import Variables

FILE = "injector.safetensors"  # in the folder of a run
CLASSES = "classes.safetensors"  # beside it: `embeddings_file`
HUB = "hub:"  # before the name of a run that was pushed
KEY = "pini_jax"  # of the file's metadata
FORMAT = 2  # 1 had no hash
NONE: Mapping[str, Doubt] = {}


class Exported(NamedTuple):
    """A trained injector: what it knows, and what it was trained with.

    Attributes:
        clip_sha256: the hash of the CLIP that it belongs to, or of the features.
        given: where the features were made elsewhere, what belongs to them: `text`, the features of the classes'
            texts [c e]; `logit_scale`, the inverse temperature; and `stands_in`, if images stand in for the texts.
        labels: what a program calls the classes, if not by their names.
        doubts: by prediction mode; none in a file of an earlier version.
    """

    variables: Variables
    config: Config
    class_names: tuple[str, ...]
    clip_sha256: str
    given: Mapping[str, np.ndarray] = {}
    labels: tuple[str | int | float | bool, ...] = ()
    doubts: Mapping[str, Doubt] = NONE


def save_injector(path: Path, exported: Exported) -> None:
    """Writes an injector at once."""
    variables, config = exported.variables, exported.config
    described: dict[str, Any] = {
        "config": configs.to_dict(config),
        "class_names": exported.class_names,
        "clip_sha256": exported.clip_sha256,
        "plugins": plugins.load_plugins(config.plugins),
        "doubts": {mode: doubt.to_json(of_mode) for mode, of_mode in exported.doubts.items()},
    }
    if exported.labels:
        described["labels"] = exported.labels
    trees = {key: tree for key, tree in {**variables._asdict(), "given": exported.given}.items() if tree}
    paths.write_file(path, _file(flatten_dict(trees, sep="/"), described))


def save_embeddings(
    path: Path, embeddings: Float[np.ndarray, "c e"], logit_scale: float, class_names: Sequence[str]
) -> None:
    """Writes `embeddings_file` at once."""
    paths.write_file(path, embeddings_file(embeddings, logit_scale, class_names))


def embeddings_file(embeddings: Float[np.ndarray, "c e"], logit_scale: float, class_names: Sequence[str]) -> bytes:
    """A file of the classes' embeddings of unit norm: p(c | x) = softmax_c(logit_scale cos(V(x), embedding_c)).

    For whatever serves a CLIP already: it needs nothing else of this project.
    """
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    arrays = {"embeddings": unit, "logit_scale": np.array(logit_scale, np.float32)}
    return _file(arrays, {"class_names": class_names})


def _file(arrays: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> bytes:
    tensors = {key: np.asarray(array, order="C") for key, array in arrays.items()}
    whole = {"format": FORMAT} | dict(described)
    # One key: the library writes several in no fixed order, and equal runs make equal files.
    metadata = {KEY: json.dumps(whole | {"sha256": digest(whole, tensors)})}
    return safetensors.numpy.save(tensors, metadata)


def digest(described: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over what a file says of itself, and over the names, kinds, shapes and bytes of its tensors."""
    whole = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode() + tensor.tobytes())
    return whole.hexdigest()


def load_run(run: str | Path) -> Exported:
    """What a run exported.

    Args:
        run: its folder, of this machine or of a bucket; its injector.safetensors; or `hub:owner/name` of what was
            pushed, or with `@revision`.

    Raises:
        InputError: there is none, or as in `load_injector`.
    """
    if str(run).startswith(HUB):
        name = hub_client.parse_id(str(run).removeprefix(HUB))
        if name is None:
            raise InputError(f"{run}: name a repository of the hub as {HUB}owner/name or {HUB}owner/name@revision")
        return load_injector(hub_client.fetch_file(name, FILE))
    path = copies.fetch_copy(str(run), lambda key: key == FILE) if is_url(str(run)) else Path(run)
    return load_injector(path / FILE if path.is_dir() else path)


def load_injector(path: Path) -> Exported:
    """Reads what `save_injector` wrote.

    Raises:
        InputError: the file is missing, damaged or changed, holds no injector, or numbers that are not finite.
    """
    if not path.is_file():
        raise InputError(f"there is no injector {path}; a finished run writes injector.safetensors")
    described, tensors = _read(path)
    if "sha256" not in described:
        raise InputError(f"{path} has no hash: it is of version 0.1, which reads it; or train it again")
    if described.pop("sha256") != digest(described, tensors):
        raise InputError(f"{path} does not match its hash: it was changed, or is damaged")
    if broken := [name for name, x in tensors.items() if not np.isfinite(x.astype(np.float64)).all()]:
        raise InputError(f"{path} holds numbers that are not finite, in {listed(broken)}")
    try:
        config, names, clip_sha256 = (described[key] for key in ("config", "class_names", "clip_sha256"))
    except KeyError as error:
        raise InputError(f"{path} holds no injector: its metadata has no {error}") from None
    config = configs.resolve(config)
    plugins.warn_of_changes(described["plugins"], f"{path} was trained")
    trees = unflatten_dict(tensors, sep="/")
    variables = Variables(trees.get("phi", {}), trees.get("buffers", {}))
    doubts = {mode: doubt.from_json(of_mode) for mode, of_mode in described.get("doubts", {}).items()}
    labels = tuple(described.get("labels", ()))
    return Exported(variables, config, tuple(names), clip_sha256, trees.get("given", {}), labels, doubts)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file says of itself, and its tensors."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"injector {path} cannot be read ({error})") from None
    try:
        described = json.loads(metadata[KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path} holds no injector: its metadata has no {KEY!r} ({error!r})") from None
    if not isinstance(described, dict):
        raise InputError(f"{path} holds no injector: its metadata is damaged")
    return described, tensors
