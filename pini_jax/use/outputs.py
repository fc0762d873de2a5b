"""Files of answers: rows are gathered line by line, so that what was stopped goes on, and then become one file.

While a command runs, `OUTPUT.partial` holds a header that says whose it is, and a row a line. The last step writes
OUTPUT from it, whole or not at all, and takes it away.

| column                     | holds                                                                   |
|----------------------------|-------------------------------------------------------------------------|
| `path`                     | the image, as it was named                                              |
| `class`, `probability`     | the most probable class, and its probability                            |
| `classes`, `probabilities` | with `topk` other than 1: lists of them, the most probable first        |
| `error`                    | why there is no answer                                                  |
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from pini_jax.core import extras
from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed, plain

Row = Mapping[str, Any]
GROUP = 65536  # rows of Parquet that are written at once


def make_row(path: str, answer: Float[np.ndarray, "c"] | InputError, names: Sequence[str], topk: int) -> Row:
    """The row of an image; a `topk` of 0 keeps all classes."""
    empty = {"path": spelt(path), "class": None, "probability": None}
    lists: dict[str, Any] = {} if topk == 1 else {"classes": [], "probabilities": []}
    if isinstance(answer, InputError):
        return empty | lists | {"error": str(answer)}
    order = np.argsort(-answer, kind="stable")[: topk or None]
    classes = [names[i] for i in order]
    probabilities = [float(str(p)) for p in answer[order]]  # as short as float32 is
    if lists:
        lists = {"classes": classes, "probabilities": probabilities}
    return empty | {"class": classes[0], "probability": probabilities[0]} | lists | {"error": None}


def spelt(path: str) -> str:
    """A path as text that can be written; escapes for bytes that are no UTF-8."""
    return path.encode(errors="backslashreplace").decode()


class PartialFile:
    """The rows of an output that is not finished.

    Attributes:
        path: of the file.
    """

    def __init__(self, output: Path, owner: Mapping[str, Any]):
        """Opens what an earlier command has left, or a new one.

        Raises:
            InputError: another command has left it.
            OSError: it cannot be written.
        """
        self.path = output.with_name(f"{output.name}.partial")
        header = json.dumps(dict(owner), sort_keys=True) + "\n"
        self.path.touch()
        self._cut()
        with open(self.path) as file:
            found = file.readline()
        if found and found != header:
            raise InputError(f"{self.path} is of another command ({_differences(found, owner)}): remove it")
        self._file: IO[str] = open(self.path, "a")  # noqa: SIM115, closed by __exit__
        if not found:
            self._file.write(header)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, row: Row) -> None:
        """Adds a row."""
        self._file.write(json.dumps(row) + "\n")

    def rows(self) -> Iterator[Row]:
        """All rows, from the first one."""
        self._file.flush()
        with open(self.path) as file:
            file.readline()
            yield from map(json.loads, file)

    def _cut(self) -> None:
        """Takes away a last line that was cut off."""
        with open(self.path, "rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end -= 1
            file.truncate(end)


def _differences(found: str, owner: Mapping[str, Any]) -> str:
    try:
        other = json.loads(found)
        return listed(f"{key} was {plain(other.get(key))}" for key in owner if other.get(key) != owner[key])
    except (ValueError, AttributeError):
        return "it is damaged"


def finish(partial: PartialFile, output: Path) -> None:
    """Writes the output from all rows, at once."""
    writer = writer_of(output)
    written = output.with_name(f".{output.name}.partial")
    writer(partial.rows(), written)
    os.replace(written, output)
    partial.path.unlink()


def writer_of(output: Path) -> Callable[[Iterator[Row], Path], None]:
    """What writes a file of this ending.

    Raises:
        InputError: nothing does, or a package is missing.
    """
    if output.suffix.lower() not in WRITERS:
        raise InputError(f"--output={output}: its name must end in {', '.join(WRITERS)}")
    if output.suffix.lower() == ".parquet":
        extras.require("pyarrow", "parquet")
    return WRITERS[output.suffix.lower()]


def _write_lines(rows: Iterable[Row], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line(row) + "\n" for row in rows if row["error"] is None)


def line(row: Row) -> str:
    """As a person reads it: file, class, probability, and then the others that are listed."""
    several = zip(row.get("classes", [row["class"]]), row.get("probabilities", [row["probability"]]), strict=True)
    return "\t".join([row["path"], *(f"{plain(name)}\t{p:.1%}" for name, p in several)])


def _write_csv(rows: Iterable[Row], path: Path) -> None:
    first, rows = _peek(rows)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _flat(first))
        writer.writeheader()
        writer.writerows(map(_flat, rows))


def _flat(row: Row) -> dict[str, Any]:
    """Lists as text: `a;b`."""
    return {key: ";".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}


def _write_json_lines(rows: Iterable[Row], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(rows: Iterable[Row], path: Path) -> None:
    arrow, parquet = (extras.require(name, "parquet") for name in ("pyarrow", "pyarrow.parquet"))
    text, number = arrow.string(), arrow.float32()
    kinds = {"probability": number, "classes": arrow.list_(text), "probabilities": arrow.list_(number)}
    first, rows = _peek(rows)
    schema = arrow.schema([(key, kinds.get(key, text)) for key in first])
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(rows, GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))


def _peek(rows: Iterable[Row]) -> tuple[Row, Iterator[Row]]:
    """The first row, or one of no image, for its columns; and all of them."""
    rows = iter(rows)
    taken = list(itertools.islice(rows, 1))
    return (taken or [make_row("", InputError(), (), 1)])[0], itertools.chain(taken, rows)


WRITERS: Mapping[str, Callable[[Iterator[Row], Path], None]] = {
    ".txt": _write_lines,
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
