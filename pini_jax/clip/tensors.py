"""Weight files as one mapping from key to tensor, whatever their format: safetensors, or PyTorch's archives."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from pini_jax.clip import archive
from pini_jax.errors import InputError


class Tensor(NamedTuple):
    """A tensor in a file: nothing is read before `read()`."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


Tensors = Mapping[str, Tensor]
ARCHIVES = (".bin", ".pt", ".pth")  # PyTorch's; any other file is taken for safetensors


def files_of(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face folder: one file, or the shards that its index names.

    Raises:
        InputError: the folder has no weights, or a damaged index.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} is damaged: it has no weight_map ({error!r})") from None
        return [folder / name for name in names]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return [folder / name]
    raise InputError(f"{folder} has no weights: model.safetensors is missing")


@contextlib.contextmanager
def open_tensors(paths: Sequence[Path]) -> Iterator[Tensors]:
    """Opens weight files as one mapping.

    Raises:
        InputError: a file is missing, truncated, of no known format, or refused as unsafe.
    """
    with contextlib.ExitStack() as stack:
        tensors: dict[str, Tensor] = {}
        for path in paths:
            if not path.exists():
                raise InputError(f"weight file {path} does not exist")
            opener = _open_archive if path.suffix in ARCHIVES else _open_safetensors
            tensors |= opener(path, stack)
        yield tensors


def _open_safetensors(path: Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    try:
        file = stack.enter_context(safe_open(path, framework="np"))
    except (SafetensorError, OSError) as error:
        raise InputError(f"weight file {path} is truncated or no safetensors file ({error})") from None
    return {
        key: Tensor(tuple(file.get_slice(key).get_shape()), functools.partial(file.get_tensor, key))
        for key in file.keys()  # noqa: SIM118, no mapping
    }


def _open_archive(path: Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    try:
        file = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"weight file {path} is neither a safetensors file nor a whole archive of PyTorch ({error}); "
            "save its tensors as model.safetensors"
        ) from None
    return {key: Tensor(*found) for key, found in archive.read_index(path, file).items()}


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over the bytes of the weight files."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()
