"""Weight files as one mapping from key to tensor, whatever their format: safetensors, or PyTorch's archives."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from pini_jax.clip.checkpoints import archive
from pini_jax.core import files
from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed, plain, quoted

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")  # of weights; a file says itself what it is
HEADER = 1 << 20  # bytes of a safetensors header; that of the largest CLIP has a quarter of it
LETTERS = 1000  # of the name of a tensor
BLOCK = 1 << 22  # elements that are read at once, or one row where rows are longer
STRIP = 16  # rows that are copied at once: where the target is transposed, more of them miss the caches


class Tensor(NamedTuple):
    """A tensor in a file: nothing is read before `read`, and nothing of the file is kept after it.

    Attributes:
        name: what error messages call it.
        read: () -> the whole tensor; (start, stop) -> those rows, slices of the first axis.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[..., np.ndarray]

    def copy_to(self, target: np.ndarray) -> None:
        """Writes the tensor to an array of its shape, whose dtype and strides may be others, block by block.

        Raises:
            InputError: it holds whole numbers, as quantised weights do, or one that is not finite in that dtype.
        """
        if self.shape != target.shape or not self.shape:  # a scalar, stored with or without an axis
            target[...] = self._cast(self.read(), target.dtype).reshape(target.shape)
            return
        rows = max(1, BLOCK // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], rows):
            part = target[start : start + rows]
            block = self._cast(self.read(start, start + len(part)), target.dtype)
            for row in range(0, len(part), STRIP):
                part[row : row + STRIP] = block[row : row + STRIP]

    def _cast(self, block: np.ndarray, dtype: np.dtype) -> np.ndarray:
        if block.dtype.kind in "biuc":
            raise InputError(f"{self.name} is quantised ({block.dtype}), and cannot be read: save it as floats")
        with np.errstate(over="ignore"):  # said below, by name
            cast = block.astype(dtype, copy=False)
        if not _is_finite(cast):
            raise InputError(f"{self.name} is not finite (NaN or infinity): no image or text could be encoded")
        return cast


def _is_finite(array: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity: both extremes are NaN where one element is."""
    wide = array.astype(np.float32, copy=False) if array.dtype.itemsize < 4 else array  # eight times as fast
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(wide.min(initial=0)) and np.isfinite(wide.max(initial=0)))


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
    if "adapter_config.json" in (os.listdir(folder) if present is None else present):
        raise InputError(
            f"{folder} has no weights but an adapter of PEFT's: merge_and_unload() it, and save the model"
        )
    raise InputError(f"{folder} has no weights: {names[0]} is missing, and so are {', '.join(names[1:])}")


def _is_hugging_face(folder: Path) -> bool:
    """open_clip's config may lie beside one of Hugging Face's, which names a model type, or one of timm's."""
    if not (folder / "open_clip_config.json").exists():
        return True
    try:
        return "model_type" in files.read_json(folder / "config.json")
    except (InputError, OSError, TypeError):
        return False


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted({str(name) for name in files.read_json(index)["weight_map"].values()})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is damaged: it has no weight_map ({plain(repr(error))})") from None
    if not names or any(Path(name).name != name or not name.endswith(SUFFIXES) for name in names):
        raise InputError(f"{index} is damaged: it names no files of its own folder, but {listed(names)}")
    return [index.parent / name for name in names]


# ------------------------------------------------------------------------------------------------ reading


def index(paths: Sequence[Path]) -> Tensors:
    """All tensors of some weight files, by key; no file stays open. Its first bytes say what one is, not its name.

    Raises:
        InputError: a file is missing, truncated, of no known format, or refused as unsafe; or two tensors have one
            name.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"weight file {path} does not exist")
        for key, (shape, read) in _index(path).items():
            if not key.isprintable() or len(key) > LETTERS:
                raise InputError(f"weight file {path} has a tensor whose name is no name: {quoted(key)}")
            if key in tensors:
                raise InputError(f"weight files have two tensors {key}, one of them in {path}")
            tensors[key] = Tensor(f"tensor {key} of weight file {path}", shape, read)
    return tensors


# What a file that begins like this is, and what to do with it.
_OTHERS = (
    (b"\x80", "a pickle, as PyTorch wrote before 1.6: load it with torch on a machine that may trust it"),
    (b"version https://git-lfs", "only the pointer of Git LFS to such a file: run `git lfs pull`"),
    (b"\x89HDF", "an HDF5 file of Keras or TensorFlow"),
    (b"\x93NUMPY", "a single array of NumPy"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
    (b"GGUF", "a GGUF file"),
    (b"<", "a web page, as a failed download leaves it: fetch it again"),
)


def _index(path: Path) -> archive.Index:
    files.check(path)
    with open(path, "rb") as file:
        start = file.read(32)
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < 1 << 32:  # bytes of the header, which is JSON
        if length > HEADER:
            raise InputError(f"weight file {path} has a header of {length:,} bytes; at most {HEADER:,} are read")
        return _index_safetensors(path)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return archive.index_archive(path)
    kinds = [kind for magic, kind in _OTHERS if start.startswith(magic)]
    kinds.append("empty" if not start else "truncated, or neither a safetensors file nor an archive of PyTorch")
    raise InputError(f"weight file {path} is {kinds[0]}; weights are read from model.safetensors")


def _index_safetensors(path: Path) -> archive.Index:
    try:
        with safe_open(path, framework="np") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"weight file {path} is truncated or no safetensors file ({plain(error)})") from None
    return {key: (shape, functools.partial(_read_safetensors, path, key)) for key, shape in shapes.items()}


def _read_safetensors(path: Path, key: str, start: int | None = None, stop: int | None = None) -> np.ndarray:
    try:
        # Opened for one read: pages of a mapping stay in memory for as long as it does.
        with safe_open(path, framework="np") as file:
            return file.get_tensor(key) if start is None else file.get_slice(key)[start:stop]
    except Exception as error:  # a dtype that NumPy lacks, or a file that has changed
        raise InputError(f"tensor {key} of weight file {path} cannot be read ({plain(error)})") from None


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over the bytes of the weight files."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
