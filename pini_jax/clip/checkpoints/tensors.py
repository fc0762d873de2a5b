"""Weight files as one mapping from key to tensor, whatever their format: safetensors, or PyTorch's archives."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from pini_jax.clip.checkpoints import archive
from pini_jax.core.errors import InputError

ARCHIVES = (".bin", ".pt", ".pth")  # PyTorch's; any other file is taken for safetensors
SUFFIXES = (".safetensors", *ARCHIVES)
BLOCK = 1 << 22  # elements that are read at once, or one row where rows are longer
STRIP = 16  # rows that are copied at once: where the target is transposed, more of them miss the caches


class Tensor(NamedTuple):
    """A tensor in a file: nothing is read before `read`, and nothing of the file is kept after it.

    Attributes:
        read: () -> the whole tensor; (start, stop) -> those rows, slices of the first axis.
    """

    shape: tuple[int, ...]
    read: Callable[..., np.ndarray]

    def copy_to(self, target: np.ndarray) -> None:
        """Writes the tensor to an array of its shape, whose dtype and strides may be others, block by block.

        Raises:
            InputError: it holds whole numbers, as quantised weights do.
        """
        if self.shape != target.shape or not self.shape:  # a scalar, stored with or without an axis
            target[...] = _floats(self.read()).reshape(target.shape)
            return
        rows = max(1, BLOCK // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], rows):
            part = target[start : start + rows]
            block = _floats(self.read(start, start + len(part))).astype(target.dtype, copy=False)
            for row in range(0, len(part), STRIP):
                part[row : row + STRIP] = block[row : row + STRIP]


def _floats(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "biu":
        raise InputError(f"weights of {array.dtype} are quantised, and cannot be read: save them as floats")
    return array


Tensors = Mapping[str, Tensor]

# ------------------------------------------------------------------------------------------------ which files

# In order of preference. An index names the shards of one checkpoint.
HUGGING_FACE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def files_of(folder: Path, present: Collection[str] | None = None) -> list[Path]:
    """The weight files of a folder: one file, or the shards that an index names.

    Args:
        present: the names to choose from, where not all of them have been fetched; by default what there is.

    Raises:
        InputError: there are no weights, or the index is damaged.
    """
    names = HUGGING_FACE + OPEN_CLIP if _is_hugging_face(folder) else OPEN_CLIP + HUGGING_FACE
    for name in names:
        if (folder / name).exists() if present is None else name in present:
            return _shards(folder / name) if name.endswith(".json") else [folder / name]
    raise InputError(f"{folder} has no weights: {names[0]} is missing, and so are {', '.join(names[1:])}")


def _is_hugging_face(folder: Path) -> bool:
    """open_clip's config may lie beside one of Hugging Face's, which names a model type, or one of timm's."""
    if not (folder / "open_clip_config.json").exists():
        return True
    try:
        return "model_type" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is damaged: it has no weight_map ({error!r})") from None
    if not names or any(Path(name).name != name or not name.endswith(SUFFIXES) for name in names):
        raise InputError(f"{index} is damaged: it names no files of its own folder, but {names}")
    return [index.parent / name for name in names]


# ------------------------------------------------------------------------------------------------ reading


def index(paths: Sequence[Path]) -> Tensors:
    """All tensors of some weight files, by key; no file stays open.

    Raises:
        InputError: a file is missing, truncated, of no known format, or refused as unsafe.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"weight file {path} does not exist")
        found = archive.index(path) if path.suffix.lower() in ARCHIVES else _index_safetensors(path)
        tensors |= {key: Tensor(*entry) for key, entry in found.items()}
    return tensors


def _index_safetensors(path: Path) -> archive.Index:
    try:
        with safe_open(path, framework="np") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"weight file {path} is truncated or no safetensors file ({error})") from None
    return {key: (shape, functools.partial(_read_safetensors, path, key)) for key, shape in shapes.items()}


def _read_safetensors(path: Path, key: str, start: int | None = None, stop: int | None = None) -> np.ndarray:
    try:
        # Opened for one read: pages of a mapping stay in memory for as long as it does.
        with safe_open(path, framework="np") as file:
            return file.get_tensor(key) if start is None else file.get_slice(key)[start:stop]
    except Exception as error:  # a dtype that NumPy lacks, or a file that has changed
        raise InputError(f"tensor {key} of weight file {path} cannot be read ({error})") from None


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over the bytes of the weight files."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
