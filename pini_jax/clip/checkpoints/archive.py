"""PyTorch's zip archives (`pytorch_model.bin`, TorchScript `.pt`, Lightning's `.ckpt`), of which nothing is run.

The pickle of an archive may name any function of any module. Here `pickles` reads it as data, with a table of
harmless stand-ins, and every other name is refused. What it says of its tensors is checked against the bytes that
are there before any is read, and all hold few times the bytes of the file: time and memory follow from its size.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from pini_jax.clip.checkpoints import pickles
from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed, plain, quoted

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
DIRECTORY = 1 << 22  # bytes of the list of entries; that of the largest CLIP has a few hundred thousand
TENSORS = 1 << 16
REPEATS = 4  # tensors may be there by several names: all hold at most so many times the bytes of the file
AXES = 8
DEPTH, LETTERS = 64, 1000  # parts and letters of a tensor's name


# key -> (shape, function that reads the tensor, or rows start to stop of it)
Index = dict[str, tuple[tuple[int, ...], Callable[..., np.ndarray]]]


class Storage(NamedTuple):
    """Numbers of one dtype in the entry data/`key`."""

    key: str
    dtype: Any


class Stored(NamedTuple):
    """The place of a tensor: `size` elements at steps of `stride`, from `offset` on, in a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Elements from the first one to the last, with what lies between."""
        span = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return 0 if 0 in self.size else 1 + span

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.storage.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.size) * self.itemsize


# ------------------------------------------------------------------------------------------------ the pickle


def _dictionary() -> dict[str, Any]:
    return {}


def _same(value: Any, *_: Any) -> Any:
    return value


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Stored:
    if type(storage) is not Storage or any(type(x) is not tuple or len(x) > AXES for x in (size, stride)):
        raise ValueError("it has a tensor without a storage, a size or strides")
    return Stored(storage, offset, size, stride)


NAMES: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): pickles.Function(_dictionary),
    ("torch._utils", "_rebuild_tensor_v2"): pickles.Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): pickles.Function(_same),
    ("torch.jit._pickle", "restore_type_tag"): pickles.Function(_same),
    **{("torch.jit._pickle", f"build_{x}list"): pickles.Function(_same) for x in ("int", "double", "bool")},
    ("torch.jit._pickle", "build_tensorlist"): pickles.Function(_same),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


def _find(module: str, name: str) -> Any:
    if module == "__torch__" or module.startswith("__torch__."):
        return pickles.Object
    if (module, name) not in NAMES:
        raise ValueError(f"it names {quoted(f'{module}.{name}')}, which no weights need")
    return NAMES[module, name]


def _locate(reference: Any) -> Storage:
    """What ("storage", dtype, key, device, count) names; how many numbers there are, the entry itself says."""
    if type(reference) is not tuple or len(reference) != 5:
        raise ValueError("it refers to what is no storage")
    _, dtype, key, *_ = reference
    if type(dtype) is not type or type(key) is not str or dtype not in DTYPES.values():
        raise ValueError("it has a storage, but its storage is no known one")
    return Storage(key, dtype)


def _tensors(node: Any, names: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, Stored]]:
    """Tensors by their path; a part that is there twice counts where it is first."""
    if sum(map(len, names)) > LETTERS or len(names) > DEPTH:
        raise ValueError(f"it has names of more than {DEPTH} parts or {LETTERS} letters")
    if isinstance(node, Stored):
        yield ".".join(names), node
        return
    children = node.state if isinstance(node, pickles.Object) else node
    if type(children) is not dict or id(children) in seen:
        return
    seen.add(id(children))
    for name, child in children.items():
        yield from _tensors(child, (*names, str(name)), seen)


def _collect(root: Any) -> dict[str, Stored]:
    tensors: dict[str, Stored] = {}
    for key, stored in _tensors(root, (), set()):
        if key in tensors:
            raise ValueError(f"it has two tensors of the name {quoted(key)}")
        if len(tensors) == TENSORS:
            raise ValueError(f"it has more than {TENSORS:,} tensors")
        tensors[key] = stored
    return tensors


# ------------------------------------------------------------------------------------------------ the zip file


class _Entry(NamedTuple):
    """Bytes of the file that are those of an entry, as they are."""

    start: int
    length: int


class _Directory(io.FileIO):
    """The file, of which zipfile reads the list of entries: not more at once than such a list has."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > DIRECTORY:
            raise ValueError(f"its list of entries has {size:,} bytes, at most {DIRECTORY:,} are read")
        return super().read(size)


class _Zip:
    """Entries of an archive by name, all of them bytes as they are.

    Raises:
        Exception: the file is no zip file, or a damaged one; of any type.
    """

    def __init__(self, path: Path):
        self.path, self.size = path, path.stat().st_size
        with _Directory(path) as file, zipfile.ZipFile(file) as opened:
            self.entries = {entry.filename: entry for entry in opened.infolist()}
            if len(self.entries) != len(opened.infolist()):
                raise ValueError("it has two entries of one name")
        self.find = functools.cache(self._find)

    def _find(self, name: str) -> _Entry:
        if (entry := self.entries.get(name)) is None:
            raise ValueError(f"it has no {name}")
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        if not stored or entry.flag_bits & 1:
            raise ValueError(f"its {name} is compressed or encrypted, which PyTorch never does")
        with open(self.path, "rb") as file:
            file.seek(entry.header_offset)
            header = file.read(30)  # the last four bytes are the lengths of a name and of more that follow
            lengths = struct.unpack("<HH", header[26:])
            again = file.read(lengths[0]).decode("utf-8" if entry.flag_bits & 0x800 else "cp437")
        start = entry.header_offset + 30 + sum(lengths)
        whole = header[:4] == b"PK\x03\x04" and start + entry.file_size <= self.size
        if not whole or again != entry.orig_filename:
            raise ValueError(f"its {name} is not where the archive says")
        return _Entry(start, entry.file_size)

    def read(self, name: str, most: int) -> bytes:
        """The bytes of an entry, which its checksum covers unless PyTorch was told to leave that out."""
        start, length = self.find(name)
        if length > most:
            raise ValueError(f"its {name} has {length:,} bytes, at most {most:,} are read")
        content = np.fromfile(self.path, np.uint8, length, offset=start).tobytes()
        if (checksum := self.entries[name].CRC) and checksum != zlib.crc32(content):
            raise ValueError(f"its {name} is damaged: it does not match its checksum")
        return content


def index_archive(path: Path) -> Index:
    """Every tensor of an archive.

    Raises:
        InputError: the file is no archive or no checkpoint, or its pickle names something that could run, or
            tensors that the file does not hold.
    """
    try:
        file = _Zip(path)
    except Exception as error:  # as below
        raise InputError(
            f"weight file {path} is no whole archive of PyTorch ({plain(error)}); save its tensors as "
            "model.safetensors"
        ) from None
    _check_kind(path, file.entries)
    try:
        return _index(file)
    except Exception as error:  # a hostile or damaged archive raises whatever its bytes lead to
        raise InputError(
            f"weight file {path} is refused ({plain(error) or type(error).__name__}); save its tensors as "
            "model.safetensors on a machine that may trust it"
        ) from None


def _check_kind(path: Path, names: Mapping[str, Any]) -> None:
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(
            f"weight file {path} is an archive of NumPy (.npz), as big_vision writes them: take the same model "
            "from the Hugging Face hub, or save its tensors as model.safetensors with Hugging Face's names"
        )
    if names and not any(name.endswith("data.pkl") for name in names):
        raise InputError(f"weight file {path} is a zip file of {listed(names)}: unpack it")


def _index(file: _Zip) -> Index:
    pickled = [name for name in file.entries if name.split("/", 1)[-1] == "data.pkl"]
    if len(pickled) != 1:
        raise ValueError(f"it has {len(pickled)} entries data.pkl, not one")
    folder = pickled[0].removesuffix("data.pkl")
    if (order := f"{folder}byteorder") in file.entries and file.read(order, 16) != b"little":
        raise ValueError("its numbers are those of a big-endian machine")
    tensors = _collect(pickles.read_pickle(file.read(pickled[0], pickles.BYTES), _find, _locate))
    entries = {key: file.find(f"{folder}data/{stored.storage.key}") for key, stored in tensors.items()}
    for key, stored in tensors.items():
        _check_place(key, stored, entries[key].length)
    _check_apart({file.find(pickled[0]), *entries.values()})
    if sum(stored.nbytes for stored in tensors.values()) > REPEATS * file.size:
        raise ValueError("its tensors hold many times the bytes of the file: they are the same ones")
    return {
        key: (stored.size, functools.partial(_read, file.path, entries[key].start, stored))
        for key, stored in tensors.items()
    }


def _check_place(key: str, stored: Stored, length: int) -> None:
    """All that the pickle says of a tensor, against the bytes of its entry."""
    numbers = stored.offset, *stored.size, *stored.stride
    if any(type(x) is not int or x < 0 for x in numbers) or len(stored.size) != len(stored.stride):
        raise ValueError(f"tensor {key} lies outside its storage")
    # The elements are counted too: with a stride of 0 a small storage would make an array of any size.
    if max(stored.offset + stored.extent, math.prod(stored.size)) > length // stored.itemsize:
        raise ValueError(f"tensor {key} lies outside its storage")


def _check_apart(entries: Iterable[_Entry]) -> None:
    for entry, following in itertools.pairwise(sorted(entries)):
        if entry.start + entry.length > following.start:
            raise ValueError("two of its entries are the same bytes")


# ------------------------------------------------------------------------------------------------ a tensor


def _read(path: Path, entry: int, stored: Stored, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The tensor, or rows of it, from an entry that starts there."""
    if stop is not None:
        offset = stored.offset + start * stored.stride[0]
        stored = stored._replace(offset=offset, size=(stop - start, *stored.size[1:]))
    base = np.fromfile(path, stored.storage.dtype, stored.extent, offset=entry + stored.offset * stored.itemsize)
    if len(base) != stored.extent:  # as_strided would read other memory
        raise InputError(f"weight file {path} has become shorter since it was opened")
    # Nothing is at more than one place along an axis of one element: its step may be any number.
    strides = [step * stored.itemsize if n > 1 else 0 for n, step in zip(stored.size, stored.stride, strict=True)]
    return np.lib.stride_tricks.as_strided(base, stored.size, strides, writeable=False)
