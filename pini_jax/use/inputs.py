"""Images to classify, from whatever holds them: one record after another, none of them decoded.

| what is named          | its images                                                                          |
|------------------------|-------------------------------------------------------------------------------------|
| a folder               | the pictures below it, sorted, also those of a kind that cannot be read             |
| a table, .csv, .jsonl  | the paths in its column `path`, relative to the table's folder                      |
| a list, .txt           | a path a line, relative to the list's folder                                        |
| `-`                    | a path a line, from standard input                                                  |
| an archive, .tar       | the pictures in it, in their order, as WebDataset has them; also .tar.gz and .tgz   |
| .parquet               | the images' bytes in a column `image`, `bytes` or of an ending such as `jpg`; their |
|                        | names in `path` or `__key__`, if there is one                                       |
| anything else          | itself                                                                              |

Each may be in a bucket, and so may what a list or table names: archives and Parquet files are copied to the cache,
and images are read one by one. What cannot be read becomes a record whose reading says why. A bad quote in a table
is an error, and a file is found however its accents are written, as in `pini_jax.data.datasets.tables`.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pini_jax.core import copies, extras
from pini_jax.core.bucket import is_url, open_bucket
from pini_jax.core.errors import InputError, last_line
from pini_jax.core.wording import listed, plain
from pini_jax.data.datasets import formats, tables, tree
from pini_jax.data.datasets.disk import Disk
from pini_jax.data.datasets.records import Record

GROUP = 64  # rows of Parquet that are read at once
LABEL = -1  # of an image that nobody has labelled
IMAGES = ("image", "bytes", "img", *sorted(suffix[1:] for suffix in formats.SUFFIXES))  # columns of bytes
NAMES = ("path", "__key__", "file_name", "filename")
DAMAGES = (OSError, EOFError, zlib.error, tarfile.TarError, UnicodeDecodeError)


def find_images(inputs: Iterable[str]) -> Iterator[Record]:
    """The images of all inputs, in their order.

    Raises:
        InputError: an input is none of the table's, though its name says so.
    """
    for name in inputs:
        yield from _reader(name)(name)


def count_images(inputs: Iterable[str]) -> int | None:
    """The number of images, if it is known without reading images or standard input; otherwise None."""
    inputs = list(inputs)
    if any(_reader(name) in (_archive, _parquet, _standard_input) for name in inputs):
        return None
    return sum(1 for _ in find_images(inputs))


def unreadable(name: str, reason: object) -> Record:
    """A record that cannot be read, for a reason that is known."""

    def refuse() -> NoReturn:
        raise InputError(plain(reason))

    return Record(name, refuse, LABEL)


def _reader(name: str) -> Callable[[str], Iterator[Record]]:
    if name == "-":
        return _standard_input
    if os.path.isdir(name):
        return _folder
    reader = READERS.get(formats.suffix(name), _file)
    return _prefix if reader is _file and is_url(name) and open_bucket(name).stat() is None else reader


def _image(id: str, place: str) -> Record:
    """An image of the disk, or of a bucket."""
    return Record(id, functools.partial(_read_object, place) if is_url(place) else Path(place), LABEL)


def _read_object(url: str) -> bytes:
    folder, _, key = url.rpartition("/")
    if (content := open_bucket(folder).read(key)) is None:
        raise InputError(f"{url} does not exist")
    return content


def _file(name: str) -> Iterator[Record]:
    yield _image(name, name)


def _prefix(name: str) -> Iterator[Record]:
    """What is below a prefix of a bucket."""
    place = open_bucket(name)
    keys = sorted(key for key in place.objects() if tree.is_picture(key))
    if not keys:
        raise InputError(f"{name} does not exist, or there is no picture below it")
    yield from (_image(url, url) for url in (f"{place.url}/{key}" for key in keys))


def _folder(name: str) -> Iterator[Record]:
    found = tree.scan(name)
    for id in sorted([*found.images, *found.broken, *found.irregular, *found.left_out]):
        yield Record(os.path.join(name, id), Path(name, id), LABEL)


def _standard_input(name: str) -> Iterator[Record]:
    yield from _paths(sys.stdin, "")


def _list(name: str) -> Iterator[Record]:
    yield from _text(name, lambda lines: _paths(lines, os.path.dirname(name)))


def _paths(lines: Iterable[str], folder: str) -> Iterator[Record]:
    disk = Disk()
    for line in lines:
        if path := line.strip():
            yield _listed(path, path, folder, disk)


def _listed(id: str, path: str, folder: str, disk: Disk) -> Record:
    """An image as a list or a table names it: what is not whole starts from their folder."""
    if is_url(path) or is_url(folder):
        return _image(id, copies.join_place(folder, path))
    return _image(id, disk.find(os.path.abspath(os.path.join(folder, path))))


def _csv(name: str) -> Iterator[Record]:
    def read(lines: Iterable[str]) -> Iterator[Record]:
        rows, disk = tables.read_csv_rows(lines), Disk()
        columns = [cell.lower() for cell in next(rows, (0, []))[1]]
        if "path" not in columns:
            raise InputError(f"{name} has no column path; its columns: {listed(columns) or 'none'}")
        return (_row(name, dict(zip(columns, cells, strict=False)), line, disk) for line, cells in rows)

    yield from _text(name, read)


def _json_lines(name: str) -> Iterator[Record]:
    def read(lines: Iterable[str]) -> Iterator[Record]:
        disk = Disk()
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                yield _row(name, row if isinstance(row, dict) else {}, number, disk)

    yield from _text(name, read)


def _row(table: str, row: Mapping[str, Any], line: int, disk: Disk) -> Record:
    """The image of a row of a table."""
    path = row.get("path")
    if not isinstance(path, str) or not path.strip():
        return unreadable(f"{table}:{line}", "the row has no path")
    id = path.strip()
    return _listed(id, id.replace("\\", "/"), os.path.dirname(table), disk)


def _text(name: str, read: Callable[[Iterable[str]], Iterator[Record]]) -> Iterator[Record]:
    """What `read` makes of the lines of a file.

    Raises:
        InputError: it cannot be read, or is no UTF-8.
    """
    try:
        with open(copies.local(name), encoding="utf-8-sig", newline="") as file:
            yield from read(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{name} cannot be read ({plain(error)})") from None


def _archive(name: str) -> Iterator[Record]:
    """Members are read as they come; what follows a damage is lost, and said to be."""
    try:
        with tarfile.open(copies.local(name), "r|*") as archive:
            for member in archive:
                if member.isfile() and formats.suffix(member.name) in formats.PICTURES:
                    content = archive.extractfile(member)
                    assert content is not None, "a regular file"
                    yield Record(f"{name}/{member.name}", content.read(), LABEL)
                archive.members.clear()  # type: ignore[attr-defined]  # of all that was read it keeps a list
    except DAMAGES as error:
        yield unreadable(name, f"the archive is damaged: {error}")


def _parquet(name: str) -> Iterator[Record]:
    """Rows batch by batch.

    Raises:
        InputError: it cannot be read, or has no column of bytes.
    """
    parquet = extras.require("pyarrow.parquet", "parquet")
    number = 0
    try:
        for batch in parquet.ParquetFile(copies.local(name)).iter_batches(GROUP):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            images = _bytes(name, columns)
            known = next((columns[key].to_pylist() for key in NAMES if key in columns), [None] * len(images))
            for image, said in zip(images, known, strict=True):
                own = f"{name}/{number}" if said is None else str(said)
                yield unreadable(own, "the row has no bytes") if image is None else Record(own, image, LABEL)
                number += 1
    except InputError:
        raise
    except (OSError, ValueError) as error:  # as pyarrow's own are
        raise InputError(f"{name} cannot be read ({last_line(error)})") from None


def _bytes(name: str, columns: Mapping[str, Any]) -> list[bytes | None]:
    """The images' bytes, in a column of their own, or within one as Hugging Face's datasets have it."""
    for key in IMAGES:
        if key in columns:
            values = columns[key].to_pylist()
            inner = [value.get("bytes") if isinstance(value, dict) else value for value in values]
            if all(value is None or isinstance(value, bytes) for value in inner):
                return inner
    raise InputError(
        f"{name} has no column of images' bytes (image or bytes, say); its columns: {listed(columns)}"
    )


READERS: Mapping[str, Callable[[str], Iterator[Record]]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".txt": _list,
    ".tar": _archive,
    ".tgz": _archive,
    ".gz": _archive,
    ".parquet": _parquet,
}
