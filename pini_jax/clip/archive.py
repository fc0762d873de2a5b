"""PyTorch's zip archives (`pytorch_model.bin`, TorchScript `.pt`), read without running anything that is in them.

The pickle of an archive may name any function of any module, and unpickling would call it. Here it gets a table of
harmless stand-ins, and every other name is refused.
"""

from __future__ import annotations

import collections
import functools
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from pini_jax.errors import InputError

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


class Stored(NamedTuple):
    """Where a tensor lies: `size` elements at steps of `stride`, from `offset` on, in the entry data/`key`."""

    key: str
    dtype: Any
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Module:
    """Stands for any class of a TorchScript archive: holds attributes, runs nothing."""


def _rebuild_tensor(storage: tuple[str, Any], offset: int, size: tuple, stride: tuple, *_) -> Stored:
    return Stored(*storage, offset, tuple(size), tuple(stride))


HARMLESS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")
        return HARMLESS[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, Any]:
        _, dtype, key, *_ = pid
        return key, dtype


def read_index(path: Path, file: zipfile.ZipFile) -> dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]]:
    """key -> (shape, function that reads the tensor), for every tensor of an open archive.

    Raises:
        InputError: the archive is no checkpoint, or its pickle names something that could run.
    """
    try:
        (entry,) = (name for name in file.namelist() if name.split("/", 1)[-1] == "data.pkl")
        root = entry.removesuffix("data.pkl")
        with file.open(entry) as pickled:
            content = _Unpickler(pickled).load()
    except Exception as error:  # a hostile or damaged pickle raises whatever its bytes lead to
        raise InputError(
            f"weight file {path} is refused ({error}); save its tensors as model.safetensors on a machine "
            "that may trust it"
        ) from None
    return {
        key: (stored.size, functools.partial(_read, file, root, stored)) for key, stored in _flatten(content, "")
    }


def _flatten(node: Any, prefix: str) -> Iterator[tuple[str, Stored]]:
    if isinstance(node, Stored):
        yield prefix, node
        return
    children = node if isinstance(node, dict) else vars(node) if isinstance(node, _Module) else {}
    for name, child in children.items():
        yield from _flatten(child, f"{prefix}.{name}" if prefix else str(name))


def _read(file: zipfile.ZipFile, root: str, stored: Stored) -> np.ndarray:
    base = np.frombuffer(file.read(f"{root}data/{stored.key}"), stored.dtype)
    last = stored.offset + sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
    # as_strided checks nothing: a hostile stride would read other memory.
    if min(stored.offset, *stored.size, *stored.stride, 0) < 0 or (0 not in stored.size and last >= len(base)):
        raise InputError(f"a tensor of {file.filename} lies outside its storage")
    strides = [step * base.itemsize for step in stored.stride]
    return np.lib.stride_tricks.as_strided(base[stored.offset :], stored.size, strides, writeable=False)
