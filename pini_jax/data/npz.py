"""Arrays in .npz files: only those that are asked for, and no larger than a file of its size may make them."""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

# Arrays together are read up to so many bytes and so many times the size of the file: compressed features hardly
# shrink, and names and labels are small. An axis is as long as this, or as the file has this many bytes for each.
BYTES, TIMES = 1 << 26, 16
AXIS, BYTES_EACH = 1 << 19, 64
HEADER = 1000  # bytes: NumPy evaluates the text of a header


def read_npz(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays under those of `keys` that are in the file; others are not touched.

    Raises:
        ValueError: it is no such file, or damaged, or an array does not have the size that its header says, or one
            holds Python objects, or together they are larger than the limits.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {key: archive.getinfo(f"{key}.npy") for key in keys if f"{key}.npy" in archive.NameToInfo}
            size = path.stat().st_size
            limit, longest = BYTES + TIMES * size, max(AXIS, size // BYTES_EACH)
            if (total := sum(member.file_size for member in members.values())) > limit:
                raise ValueError(f"its arrays take {total:,} bytes, and of its size at most {limit:,} are read")
            return {key: _array(archive, member, key, longest) for key, member in members.items()}
    except ValueError:
        raise
    except Exception as error:  # a damaged zip raises whatever its bytes lead to
        raise ValueError(str(error) or type(error).__name__) from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str, longest: int) -> np.ndarray:
    # NumPy writes no others, and the header of LZMA says how much memory it takes.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is compressed in another way than NumPy does")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{key} has format {version} of .npy")
        shape, by_columns, dtype = _HEADERS[version](file, max_header_size=HEADER)
        if dtype.kind in "OV":
            raise ValueError(f"{key} holds Python objects or records: save it as an array of numbers or of text")
        size = math.prod(shape) * dtype.itemsize
        if file.tell() + size != member.file_size:
            raise ValueError(f"{key} has {member.file_size - file.tell()} bytes, not {list(shape)} of {dtype}")
        if max(shape, default=0) > longest:
            raise ValueError(f"{key} has {max(shape):,} entries, and of this file at most {longest:,} are read")
        content = file.read(size)
    if dtype.kind == "U" and (np.frombuffer(content, f"{dtype.byteorder}u4") > sys.maxunicode).any():
        raise ValueError(f"{key} holds text of no characters")
    return np.ndarray(shape, dtype, content, order="F" if by_columns else "C")


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
