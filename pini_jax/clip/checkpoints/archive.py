"""PyTorch's zip archives (`pytorch_model.bin`, TorchScript `.pt`), read without running anything that is in them.

The pickle of an archive may name any function of any module, and unpickling would call it. Here it gets a table of
harmless stand-ins, and every other name is refused. What it says of its tensors is checked against the bytes that
are there before any is read.
"""

from __future__ import annotations

import collections
import functools
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from pini_jax.core.errors import InputError

DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


# key -> (shape, function that reads the tensor, or rows start to stop of it)
Index = dict[str, tuple[tuple[int, ...], Callable[..., np.ndarray]]]


class Stored(NamedTuple):
    """Where a tensor lies: `size` elements at steps of `stride`, from `offset` on, in the entry data/`key`."""

    key: str
    dtype: Any
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Elements from the first one to the last, with what lies between."""
        span = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return 0 if 0 in self.size else 1 + span


class _Module:
    """Stands for any class of a TorchScript archive: holds attributes, runs nothing."""


def _rebuild_tensor(storage: tuple[str, Any], offset: int, size: tuple, stride: tuple, *_) -> Stored:
    return Stored(*storage, offset, tuple(size), tuple(stride))


HARMLESS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
    ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # What is made here is for one use: a pickle can set attributes of it.
        if module == "__torch__" or module.startswith("__torch__."):
            return type("Module", (_Module,), {})
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")
        found = HARMLESS[module, name]
        return found if isinstance(found, type) else functools.partial(found)

    def persistent_load(self, pid: Any) -> tuple[str, Any]:
        _, dtype, key, *_ = pid
        return key, dtype


def index(path: Path) -> Index:
    """Every tensor of an archive.

    Raises:
        InputError: the file is no archive or no checkpoint, or its pickle names something that could run, or
            tensors that the file does not hold.
    """
    try:
        file = zipfile.ZipFile(path)
    except Exception as error:  # as below
        raise InputError(
            f"weight file {path} is neither a safetensors file nor a whole archive of PyTorch ({error}); "
            "save its tensors as model.safetensors"
        ) from None
    try:
        with file:
            (name,) = (name for name in file.namelist() if name.split("/", 1)[-1] == "data.pkl")
            entry = _entry(path, file, name)
            pickled = np.fromfile(path, np.uint8, entry.length, offset=entry.start)
            stored = dict(_flatten(_Unpickler(io.BytesIO(pickled.tobytes())).load(), "", set()))
            folder = name.removesuffix("data.pkl") + "data/"
            positions = {key: _position(path, file, folder, x, key) for key, x in stored.items()}
    except Exception as error:  # a hostile or damaged archive raises whatever its bytes lead to
        raise InputError(
            f"weight file {path} is refused ({error}); save its tensors as model.safetensors on a machine "
            "that may trust it"
        ) from None
    return {key: (x.size, functools.partial(_read, path, positions[key], x)) for key, x in stored.items()}


def _flatten(node: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Stored]]:
    """Tensors by their path; a part that is there twice counts where it is first."""
    if isinstance(node, Stored):
        yield prefix, node
        return
    if id(node) in seen:
        return
    seen.add(id(node))
    children = node if isinstance(node, dict) else vars(node) if isinstance(node, _Module) else {}
    for name, child in children.items():
        yield from _flatten(child, f"{prefix}.{name}" if prefix else str(name), seen)


class _Entry(NamedTuple):
    """Bytes of the file that are those of an entry, as they are."""

    start: int
    length: int


def _entry(path: Path, file: zipfile.ZipFile, name: str) -> _Entry:
    found = file.getinfo(name)
    if found.compress_type != zipfile.ZIP_STORED or found.compress_size != found.file_size or found.flag_bits & 1:
        raise ValueError(f"its {name} is compressed or encrypted, which PyTorch never does")
    # The local header: 30 bytes, the last four of which are the lengths of a name and of more that follow.
    header = np.fromfile(path, np.uint8, 30, offset=found.header_offset).tobytes()
    start = found.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    if not header.startswith(b"PK\x03\x04") or start + found.file_size > path.stat().st_size:
        raise ValueError(f"its {name} is not where the archive says")
    return _Entry(start, found.file_size)


def _position(path: Path, file: zipfile.ZipFile, folder: str, stored: Stored, key: str) -> int:
    """Where in the file a tensor starts, once all that the pickle says of it has been checked."""
    numbers = stored.offset, *stored.size, *stored.stride
    if stored.dtype not in DTYPES.values() or any(type(x) is not int or x < 0 for x in numbers):
        raise ValueError(f"tensor {key} lies outside its storage, or its storage is no known one")
    entry = _entry(path, file, f"{folder}{stored.key}")
    itemsize = np.dtype(stored.dtype).itemsize
    # The elements are counted too: with a stride of 0 a small storage would make an array of any size.
    if max(stored.offset + stored.extent, math.prod(stored.size)) > entry.length // itemsize:
        raise ValueError(f"tensor {key} lies outside its storage")
    return entry.start + stored.offset * itemsize


def _read(path: Path, position: int, stored: Stored, start: int = 0, stop: int | None = None) -> np.ndarray:
    itemsize = np.dtype(stored.dtype).itemsize
    if stop is not None:
        position += start * stored.stride[0] * itemsize
        stored = stored._replace(size=(stop - start, *stored.size[1:]))
    base = np.fromfile(path, stored.dtype, stored.extent, offset=position)
    if len(base) != stored.extent:  # as_strided would read other memory
        raise InputError(f"weight file {path} has become shorter since it was opened")
    strides = [step * itemsize for step in stored.stride]
    return np.lib.stride_tricks.as_strided(base, stored.size, strides, writeable=False)
