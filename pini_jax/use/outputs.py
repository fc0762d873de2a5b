"""Files of answers: rows are gathered line by line, so that what was stopped goes on, and then become one file.

While a command runs, `OUTPUT.partial` holds a header that says whose it is, and a row a line. The last step writes
OUTPUT from it, whole or not at all, and takes it away.

| column                     | holds                                                                   |
|----------------------------|-------------------------------------------------------------------------|
| `path`                     | the image, as it was named                                              |
| `class`, `probability`     | the most probable class, and its probability                            |
| `classes`, `probabilities` | with `topk` other than 1: lists of them, the most probable first        |
| `unsure`                   | where the run had held-out images: whether it may be none of the classes |
| `plausible`                | and the classes that it may be, the most probable first                 |
| `error`                    | why there is no answer                                                  |
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from pini_jax.core import extras
from pini_jax.core.bucket import is_url, open_bucket
from pini_jax.core.errors import InputError
from pini_jax.core.paths import cache_folder
from pini_jax.core.wording import listed, plain
from pini_jax.use.classifier import Answer, TrainedClassifier

Row = Mapping[str, Any]
Writer = Callable[[Iterator[Row], Path, Sequence[str]], None]  # rows, to a file, with these columns
GROUP = 65536  # rows of Parquet that are written at once


class Columns(NamedTuple):
    """The columns of a run's rows.

    Attributes:
        class_names: in the order of the probabilities.
        topk: how many classes are listed; 0 for all.
        doubt: whether there are `unsure` and `plausible`.
    """

    class_names: Sequence[str]
    topk: int = 1
    doubt: bool = False

    def empty(self) -> dict[str, Any]:
        """The row of an image without an answer, apart from its path and the reason."""
        row: dict[str, Any] = {"path": "", "class": None, "probability": None}
        row |= {} if self.topk == 1 else {"classes": [], "probabilities": []}
        row |= {"unsure": None, "plausible": []} if self.doubt else {}
        return row | {"error": None}


def columns_of(trained: TrainedClassifier, mode: str, topk: int) -> Columns:
    """The columns of a run; `unsure` and `plausible` if it had held-out images."""
    return Columns(trained.class_names, topk, doubt=trained.doubt(mode).images > 0)


def make_row(path: str, answer: Answer | InputError, columns: Columns) -> Row:
    """The row of an image."""
    row = columns.empty() | {"path": spelt(path)}
    if isinstance(answer, InputError):
        return row | {"error": str(answer)}
    likeliest_first = np.argsort(-answer.probabilities, kind="stable")
    order = likeliest_first[: columns.topk or None]
    classes = [columns.class_names[i] for i in order]
    probabilities = [float(str(p)) for p in answer.probabilities[order]]  # as short as float32 is
    found: dict[str, Any] = {"classes": classes, "probabilities": probabilities, "unsure": answer.unsure}
    found |= {"class": classes[0], "probability": probabilities[0]}
    plausible = likeliest_first[answer.plausible[likeliest_first]]
    found["plausible"] = [columns.class_names[i] for i in plausible]
    return row | {key: value for key, value in found.items() if key in row}


def spelt(path: str) -> str:
    """A path as text, with escapes for bytes that are not UTF-8."""
    return path.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def placed(output: str) -> Iterator[Path]:
    """The file to write: the path on this machine itself or, for an object, a file of the cache that is uploaded
    at the end.

    Raises:
        OSError: it could not be put; it is where it was written.
    """
    if not is_url(output):
        yield Path(output)
        return
    folder, _, name = output.rpartition("/")
    place = open_bucket(folder)
    path = cache_folder() / "outputs" / hashlib.sha256(output.encode()).hexdigest() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    try:
        place.put(name, path.read_bytes())
    except OSError as error:
        raise OSError(f"{error}; what was to be put is {path}") from None
    path.unlink()


class PartialFile:
    """The rows of an unfinished output.

    Attributes:
        path: of the file.
    """

    def __init__(self, output: Path, owner: Mapping[str, Any]):
        """Opens what an earlier command has left, or a new file.

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


def finish(partial: PartialFile, output: Path, columns: Columns) -> None:
    """Writes the output from all rows, at once."""
    writer = writer_of(output)
    written = output.with_name(f".{output.name}.partial")
    writer(partial.rows(), written, [*columns.empty()])
    os.replace(written, output)
    partial.path.unlink()


def writer_of(output: Path) -> Writer:
    """The writer for a file with this extension.

    Raises:
        InputError: nothing does, or a package is missing.
    """
    if output.suffix.lower() not in WRITERS:
        raise InputError(f"--output={output}: its name must end in {', '.join(WRITERS)}")
    if output.suffix.lower() == ".parquet":
        extras.require("pyarrow", "parquet")
    return WRITERS[output.suffix.lower()]


def _write_lines(rows: Iterator[Row], path: Path, _: Sequence[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line(row) + "\n" for row in rows if row["error"] is None)


def line(row: Row) -> str:
    """The row for a person to read: file, class, probability, then any others that are listed."""
    several = zip(row.get("classes", [row["class"]]), row.get("probabilities", [row["probability"]]), strict=True)
    return "\t".join([row["path"], *(f"{plain(name)}\t{p:.1%}" for name, p in several)])


def _write_csv(rows: Iterator[Row], path: Path, columns: Sequence[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(map(_flat, rows))


def _flat(row: Row) -> dict[str, Any]:
    """Lists as text: `a;b`."""
    return {key: ";".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}


def _write_json_lines(rows: Iterator[Row], path: Path, _: Sequence[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(rows: Iterator[Row], path: Path, columns: Sequence[str]) -> None:
    arrow, parquet = (extras.require(name, "parquet") for name in ("pyarrow", "pyarrow.parquet"))
    text, number = arrow.string(), arrow.float32()
    kinds = {"probability": number, "classes": arrow.list_(text), "probabilities": arrow.list_(number)}
    kinds |= {"unsure": arrow.bool_(), "plausible": arrow.list_(text)}
    schema = arrow.schema([(key, kinds.get(key, text)) for key in columns])
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(rows, GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))


WRITERS: Mapping[str, Writer] = {
    ".txt": _write_lines,
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
