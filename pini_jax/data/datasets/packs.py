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
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from pini_jax.core import paths
from pini_jax.core.errors import InputError
from pini_jax.core.wording import MOST, listed, plain, quoted
from pini_jax.data import npz
from pini_jax.data.datasets import findings
from pini_jax.data.datasets.findings import Findings, Problem
from pini_jax.data.datasets.records import Dataset, Record

NEEDED = ("train_x", "train_y", "test_x", "test_y", "text", "classnames")
SPLITS = ("train", "val", "test")
KEYS = (*NEEDED, "val_x", "val_y", *(f"{split}_paths" for split in SPLITS), "logit_scale")
LOGIT_SCALE = 100.0


class Pack(NamedTuple):
    """A dataset of features, without its images, and what belongs to it.

    Attributes:
        images: features by the ids of the records.
        text: None where nobody knows the texts of the classes.
        logit_scale: exp(s), the inverse temperature.
        sha256: of the file.
    """

    findings: Findings
    images: Mapping[str, Float[np.ndarray, "e"]]
    text: Float[np.ndarray, "c e"] | None
    logit_scale: float
    sha256: str


def load_pack(path: Path) -> Pack:
    """Reads a pack; features of unit norm, in float32.

    Raises:
        InputError: there is no such file, or it is damaged, or lacks a key, or its arrays do not fit together.
    """
    arrays = _read(path)
    if missing := [key for key in NEEDED if key not in arrays]:
        raise InputError(f"{path} is no feature pack: it lacks {', '.join(missing)}")
    if misshapen := list(_misshapen(arrays)):
        raise InputError(f"{path} is no feature pack: {'; '.join(misshapen)}")
    names, notes = _numbered(_texts(np.atleast_1d(arrays["classnames"])))
    images: dict[str, np.ndarray] = {}
    splits: dict[str, list[Record]] = {}
    for split in SPLITS:
        entries = list(_entries(arrays, split))
        images |= {id: feature for id, feature, _ in entries}
        splits[split] = [Record(id, path, label) for id, _, label in entries]
    dataset = Dataset(f"features:{path.name}", names, *(tuple(records) for records in splits.values()))
    problems = (
        *_bad_labels(arrays, len(names)),
        *findings.class_problems(dataset),
        *findings.split_problems(dataset, {}),
    )
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Pack(
        findings=Findings(dataset, problems, notes=notes),
        images=images,
        text=as_unit(arrays["text"]),
        logit_scale=float(np.ravel(arrays.get("logit_scale", LOGIT_SCALE))[0]),
        sha256=sha256,
    )


def write_pack(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a pack at once; the arrays are those of the table above."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes a keyword for one of them
    paths.write_file(path, file.getvalue())


def text_pack(names: Sequence[str], text: Float[np.ndarray, "c e"], logit_scale: float, sha256: str) -> Pack:
    """A pack without images: what classifies features that are yet to come."""
    return Pack(Findings(Dataset("features", tuple(names), (), (), ())), {}, text, logit_scale, sha256)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):
        raise InputError(f"there is no feature pack {path}; expected a .npz file with {', '.join(NEEDED)}")
    try:
        return npz.read_npz(path, KEYS)
    except ValueError as error:
        raise InputError(f"feature pack {path} cannot be read ({plain(error)})") from None


def _texts(array: np.ndarray) -> list[str]:
    """The entries of an array as text that can be written; escapes for what cannot."""
    escape = "backslashreplace"
    texts = (entry.decode(errors=escape) if isinstance(entry, bytes) else str(entry) for entry in array)
    return [text.encode(errors=escape).decode() for text in texts]


def _numbered(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """Names that come again with a number each: crane (1), crane (2). They are labels only, and no prompt."""
    counts = Counter(names)
    taken, numbers = set(names), {name: itertools.count(1) for name in names}

    def numbered(name: str) -> str:
        if counts[name] == 1:
            return name
        new = next(new for i in numbers[name] if (new := f"{name} ({i})") not in taken)
        taken.add(new)
        return new

    several = tuple(name for name, count in counts.items() if count > 1)
    notes = (Problem("classes with one name, which are told apart by numbers", several),) if several else ()
    return tuple(map(numbered, names)), notes


def _misshapen(arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    numeric = [key for key in ("text", "logit_scale", *(f"{split}_x" for split in SPLITS)) if key in arrays]
    if words := [key for key in numeric if arrays[key].dtype.kind not in "fiu"]:
        yield f"{', '.join(words)} must be numbers"
        return
    scale = arrays.get("logit_scale", np.array(LOGIT_SCALE))
    if scale.size != 1 or not 0 < float(np.ravel(scale)[0]) < np.inf:
        yield f"logit_scale must be one positive number, not {quoted(scale.ravel()[:MOST].tolist())}"
    names, text = arrays["classnames"], arrays["text"]
    width = text.shape[-1] if text.ndim else 0
    if names.ndim > 1:
        yield f"classnames has shape {list(names.shape)}, not one axis"
    elif text.shape != (names.size, width) or not width:
        yield f"text has shape {list(text.shape)} for {names.size} class names"
    else:
        yield from unusable("text", text)
    for split in SPLITS:
        yield from _misshapen_split(arrays, split, width)


def _misshapen_split(arrays: Mapping[str, np.ndarray], split: str, width: int) -> Iterator[str]:
    x, y, paths = (arrays.get(f"{split}_{key}") for key in ("x", "y", "paths"))
    if x is None or y is None:
        if (x is None) != (y is None):
            yield f"{split}_x and {split}_y must come together"
        return
    if x.ndim != 2 or x.shape[1] != width or not width:
        yield f"{split}_x has shape {list(x.shape)}, not [b, {width or '?'}]"
        return
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        yield f"{split}_y must be {len(x)} whole numbers, not {y.dtype} of shape {list(y.shape)}"
    if paths is not None and paths.shape != x.shape[:1]:
        yield f"{split}_paths has shape {list(paths.shape)}, not [{len(x)}]"
    yield from unusable(f"{split}_x", x)


def unusable(key: str, features: np.ndarray) -> Iterator[str]:
    """What is wrong with features as such: a direction that none has, or numbers that are not finite."""
    if len(bad := np.flatnonzero(~has_direction(features))):
        yield f"{key} has features that are zero or not finite: {listed(f'{key}[{i}]' for i in bad)}"


def _bad_labels(arrays: Mapping[str, np.ndarray], classes: int) -> Iterator[Problem]:
    for key in (f"{split}_y" for split in SPLITS if f"{split}_y" in arrays):
        labels = np.unique(arrays[key])
        if len(bad := labels[(labels < 0) | (labels >= classes)]):
            yield Problem(f"labels of {key} without a class name ({classes} names)", tuple(map(str, bad)))


def _entries(arrays: Mapping[str, np.ndarray], split: str) -> Iterator[tuple[str, np.ndarray, int]]:
    """Id, feature and label of every image."""
    if f"{split}_x" not in arrays:
        return
    features = as_unit(arrays[f"{split}_x"])
    numbers = np.arange(len(features))
    paths = _texts(arrays.get(f"{split}_paths", numbers))
    if len(set(paths)) < len(paths):  # names of files without their folders
        paths = [f"{number}/{path}" for number, path in zip(numbers, paths, strict=True)]
    for path, feature, label in zip(paths, features, arrays[f"{split}_y"], strict=True):
        yield f"{split}/{path}", feature, int(label)


def has_direction(features: Num[np.ndarray, "*b e"]) -> Bool[np.ndarray, "*b"]:
    """Which features `as_unit` can bring to norm 1: their numbers, and their norm, are finite and not all zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(features.astype(np.float32), axis=-1)
    return np.isfinite(norms) & (norms > 0)


def as_unit(features: Num[np.ndarray, "b e"]) -> Float[np.ndarray, "b e"]:
    """The features with norm 1, in float32."""
    features = features.astype(np.float32)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)
