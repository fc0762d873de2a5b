"""Feature packs: image and text features that were made elsewhere, in one .npz file.

| key                      | shape         | what                                                             |
|--------------------------|---------------|------------------------------------------------------------------|
| `train_x`, `test_x`      | [b e]         | image features                                                   |
| `train_y`, `test_y`      | [b]           | labels, 0 to c - 1                                               |
| `val_x`, `val_y`         | as above      | where there are none, validation images are taken from `train`   |
| `text`                   | [c e]         | text features of the classes                                     |
| `classnames`             | [c]           | their names                                                      |
| `train_paths`, ...       | [b]           | names of the images; numbers where there are none                |
| `logit_scale`            | one number    | exp(s), the inverse temperature; 100 where it is missing         |

Features are normalised when they are read: packs in half precision are a little off.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import findings
from pini_jax.data.datasets.findings import Findings, Problem
from pini_jax.data.datasets.records import Dataset, Record

NEEDED = ("train_x", "train_y", "test_x", "test_y", "text", "classnames")
SPLITS = ("train", "val", "test")
LOGIT_SCALE = 100.0


class Pack(NamedTuple):
    """A dataset whose images nobody needs, and what belongs to it.

    Attributes:
        images: features by the ids of the records.
        logit_scale: exp(s), the inverse temperature.
        sha256: of the file.
    """

    findings: Findings
    images: Mapping[str, Float[np.ndarray, "e"]]
    text: Float[np.ndarray, "c e"]
    logit_scale: float
    sha256: str


def load(path: Path) -> Pack:
    """Reads a pack; features of unit norm, in float32.

    Raises:
        InputError: there is no such file, or it is damaged, or lacks a key, or its arrays do not fit together.
    """
    arrays = _read(path)
    if missing := [key for key in NEEDED if key not in arrays]:
        raise InputError(f"{path} is no feature pack: it lacks {', '.join(missing)}")
    if problems := list(_misshapen(arrays)):
        raise InputError(f"{path} is no feature pack: {'; '.join(problems)}")
    names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in arrays["classnames"])
    images: dict[str, np.ndarray] = {}
    splits: dict[str, list[Record]] = {}
    for split in SPLITS:
        found = list(_entries(arrays, split))
        images |= {id: feature for id, feature, _ in found}
        splits[split] = [Record(id, path, label) for id, _, label in found]
    dataset = Dataset(f"features:{path.name}", names, *(tuple(records) for records in splits.values()))
    return Pack(
        findings=findings.inspect(dataset, {}, _bad_labels(arrays, len(names))),
        images=images,
        text=_unit(arrays["text"]),
        logit_scale=float(np.ravel(arrays.get("logit_scale", LOGIT_SCALE))[0]),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"there is no feature pack {path}; expected a .npz file with {', '.join(NEEDED)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"feature pack {path} cannot be read ({error})") from None


def _misshapen(arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    numeric = [key for key in ("text", "logit_scale", *(f"{split}_x" for split in SPLITS)) if key in arrays]
    if words := [key for key in numeric if not jnp.issubdtype(arrays[key].dtype, jnp.number)]:
        yield f"{', '.join(words)} must be numbers"
        return
    scale = arrays.get("logit_scale", np.array(LOGIT_SCALE))
    if scale.size != 1 or not 0 < float(np.ravel(scale)[0]) < np.inf:
        yield f"logit_scale must be one positive number, not {scale.tolist()!r}"
    classes, width = len(np.atleast_1d(arrays["classnames"])), arrays["text"].shape[-1:]
    if arrays["text"].shape != (classes, *width):
        yield f"text has shape {list(arrays['text'].shape)} for {classes} class names"
    elif not _is_usable(arrays["text"]):
        yield "text has features that are zero or not finite"
    for split in SPLITS:
        x, y, paths = (arrays.get(f"{split}_{key}") for key in ("x", "y", "paths"))
        if x is None or y is None:
            if (x is None) != (y is None):
                yield f"{split}_x and {split}_y must come together"
            continue
        if x.ndim != 2 or x.shape[1:] != width:
            yield f"{split}_x has shape {list(x.shape)}, not [b, {width[0] if width else '?'}]"
            continue
        if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
            yield f"{split}_y must be {len(x)} whole numbers, not {y.dtype} of shape {list(y.shape)}"
        if paths is not None and paths.shape != x.shape[:1]:
            yield f"{split}_paths has shape {list(paths.shape)}, not [{len(x)}]"
        if not _is_usable(x):
            yield f"{split}_x has features that are zero or not finite"


def _is_usable(features: np.ndarray) -> bool:
    norms = np.linalg.norm(features.astype(np.float32), axis=-1)
    return bool(np.isfinite(norms).all() and norms.all())


def _bad_labels(arrays: Mapping[str, np.ndarray], classes: int) -> Iterator[Problem]:
    for key in (f"{split}_y" for split in SPLITS if f"{split}_y" in arrays):
        if bad := sorted({int(y) for y in arrays[key] if not 0 <= y < classes}):
            yield Problem(f"labels of {key} without a class name ({classes} names)", tuple(map(str, bad)))


def _entries(arrays: Mapping[str, np.ndarray], split: str) -> Iterator[tuple[str, np.ndarray, int]]:
    """Id, feature and label of every image."""
    if f"{split}_x" not in arrays:
        return
    features = _unit(arrays[f"{split}_x"])
    numbers = np.arange(len(features))
    paths = arrays.get(f"{split}_paths", numbers)
    if len(np.unique(paths)) < len(paths):  # names of files without their folders
        paths = np.array([f"{number}/{path}" for number, path in zip(numbers, paths, strict=True)])
    for path, feature, label in zip(paths, features, arrays[f"{split}_y"], strict=True):
        yield f"{split}/{path}", feature, int(label)


def _unit(features: np.ndarray) -> Float[np.ndarray, "b e"]:
    features = features.astype(np.float32)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)
