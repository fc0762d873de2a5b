"""A table of images: a CSV with a header, or JSON Lines.

| column  | holds                                                                                              |
|---------|----------------------------------------------------------------------------------------------------|
| `path`  | the image, absolute or relative to the table's folder; a backslash is read as a slash              |
| `label` | the class's name; or, with a column `name`, whatever stands for the class, such as its number      |
| `name`  | optional: the class's name                                                                         |
| `split` | optional: train, val (or valid, validation) or test; without it, or where val or test is missing,  |
|         | images are cut off as `pini_jax.data.datasets.splits` says                                         |

Other columns are not read. Classes have the order of their labels: of numbers if all are whole numbers, else of
text. Text is UTF-8; blank lines are skipped; an image that is listed again in the same way counts once. A file is
found however its accents are written, in one character or in two. Pictures that cannot be read are left out.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pini_jax.core import copies
from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed, plain, quoted
from pini_jax.data.datasets import findings, formats, splits
from pini_jax.data.datasets.disk import Disk
from pini_jax.data.datasets.findings import Findings, Problem
from pini_jax.data.datasets.records import Record

NEEDED = ("path", "label")
COLUMNS = (*NEEDED, "name", "split")


class TableRow(NamedTuple):
    """A line of a table.

    Attributes:
        line: its number in the file.
        values: text by column, without white space around it.
        fault: why it cannot be used, or nothing.
    """

    line: int
    values: Mapping[str, str]
    fault: str = ""


class LabelTable(NamedTuple):
    """Rows, and the names of all columns, in lower case."""

    columns: Sequence[str]
    rows: Sequence[TableRow]


def find_table(path: Path, seed: int) -> Findings:
    """The images that a table lists, sorted by their ids; problems that the user can correct are in the findings.

    Ids are relative to the table's folder if all images lie in it, else to the deepest folder that they share.

    Raises:
        InputError: the table cannot be read, or lacks a column, or has no rows.
    """
    table = read_table(path)
    images: dict[str, list[TableRow]] = defaultdict(list)
    faults: dict[str, list[str]] = defaultdict(list)
    disk = Disk()
    for row in table.rows:
        if fault := row.fault or _fault(row.values, table.columns):
            faults[fault].append(f"line {row.line}")
        else:
            images[disk.find(os.path.abspath(path.parent / row.values["path"]))].append(row)
    left_out = [image for image in images if formats.suffix(image) in formats.LEFT_OUT]
    problems = [Problem(fault, tuple(lines)) for fault, lines in faults.items()]
    images = {image: rows for image, rows in images.items() if image not in set(left_out)}
    problems += [*_image_problems(images, disk), *_name_problems(images)]
    names = _class_names(images)
    labels = {label: i for i, label in enumerate(names)}
    parts: dict[str, list[Record]] = {} if "split" in table.columns else {"train": []}
    root = _root(path.parent, images)
    for image in sorted(images):
        values, id = images[image][0].values, image[len(root) :].lstrip(os.sep).replace(os.sep, "/")
        record = Record(id, Path(image), labels[values["label"]])
        parts.setdefault(values.get("split", "train"), []).append(record)
    dataset = splits.complete(str(path), [*names.values()], parts, seed)
    return findings.inspect(dataset, parts, problems, notes=_notes(images, left_out))


def fetch_table(url: str) -> Path:
    """A copy of a table that is in a bucket, with the images below its folder that it lists beside it.

    Raises:
        InputError: the table cannot be read.
    """
    rows = read_table(copies.fetch_copy(url)).rows
    listed = {_key(row.values["path"]) for row in rows if "path" in row.values}
    folder, _, name = url.rpartition("/")
    return copies.fetch_copy(folder, lambda key: key == name or _key(key) in listed) / name


def _key(path: str) -> str:
    """A path by which files are told from each other, whichever way its accents are written."""
    return unicodedata.normalize("NFC", posixpath.normpath(path))


# ------------------------------------------------------------------------------------------------ rows


def read_table(path: Path) -> LabelTable:
    """The rows of a table.

    Raises:
        InputError: it cannot be read, or lacks a column, or has no rows.
    """
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path} is no table: its name must end in {' or '.join(READERS)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path} is no table: it is a directory, a pipe or a device")
    try:
        table = READERS[path.suffix.lower()](path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path} is not UTF-8 (line {line}, byte {error.start}): save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path} is no CSV ({error})") from None
    missing = [column for column in NEEDED if column not in table.columns]
    if missing and not (table.rows and all(row.fault for row in table.rows)):
        there = listed(map(quoted, table.columns)) or "none"
        raise InputError(f"{path} has no column {' and no column '.join(missing)}; its columns: {there}")
    if not table.rows:
        raise InputError(f"{path} lists no images")
    return table


def _read_csv(text: str) -> LabelTable:
    columns: list[str] | None = None
    rows = []
    for line, cells in read_csv_rows(io.StringIO(text, newline="")):
        if columns is None:
            columns = [cell.lower() for cell in cells]
            if twice := [column for column in COLUMNS if columns.count(column) > 1]:
                raise csv.Error(f"it has two columns {twice[0]}")
            continue
        fits = len(cells) == len(columns)
        fault = f"rows of {len(cells)} fields under a header of {len(columns)} (quote what holds a comma)"
        rows.append(TableRow(line, _clean(dict(zip(columns, cells, strict=False))), "" if fits else fault))
    return LabelTable(columns or [], rows)


def read_csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of the rows that are not blank; the number is that of the last line of a row of several.

    Args:
        lines: with their ends as they are in the file.

    Raises:
        csv.Error: a row is none; the message says where it begins.
    """
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    first = 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield reader.line_num, cells
            first = reader.line_num + 1
    except csv.Error as error:
        single = reader.line_num == first
        where = f"line {first}" if single else f"lines {first} to {reader.line_num}, as one row"
        raise csv.Error(f"{where}: {error}") from None


def _read_json_lines(text: str) -> LabelTable:
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    rows = [_json_row(number, line) for number, line in lines]
    return LabelTable([*dict.fromkeys(column for row in rows for column in row.values)], rows)


def _json_row(number: int, line: str) -> TableRow:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return TableRow(number, {}, "lines that are no JSON object")
    values = {key.strip().lower(): value for key, value in content.items()}
    odd = any(not _is_cell(values[column]) for column in COLUMNS if column in values)
    if odd:
        return TableRow(number, {}, "rows with a value that is neither text nor a whole number")
    return TableRow(number, _clean({column: _cell(values, column) for column in values}))


def _cell(values: Mapping[str, Any], column: str) -> str:
    """The text of a value that is read; of other columns the name is enough."""
    value = values[column] if column in COLUMNS else None
    return "" if value is None else str(value).strip()


def _is_cell(value: Any) -> bool:
    """Text of whole characters (JSON can name half of one), a whole number, or nothing."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _clean(values: dict[str, str]) -> dict[str, str]:
    """With slashes in the path, and the split under our own name for it."""
    if "path" in values:
        values["path"] = values["path"].replace("\\", "/")
    if "split" in values:
        values["split"] = splits.SPLITS.get(values["split"].lower(), values["split"])
    return values


READERS: Mapping[str, Callable[[str], LabelTable]] = {".csv": _read_csv, ".jsonl": _read_json_lines}


def _fault(values: Mapping[str, str], columns: Sequence[str]) -> str:
    """What keeps a row from being used, or nothing."""
    if absent := [column for column in COLUMNS if column in columns and not values.get(column)]:
        return (
            f"a label without a name ({plain(values['label'])})"
            if absent == ["name"]
            else f"rows without a {absent[0]}"
        )
    split = values.get("split", "train")
    if split not in splits.SPLITS.values():
        return f"rows of a split {quoted(split)}, which is no train, val or test"
    return ""


# ------------------------------------------------------------------------------------------------ images, classes


def _image_problems(images: Mapping[str, Sequence[TableRow]], disk: Disk) -> Iterator[Problem]:
    for column in ("label", "split"):
        several = {image: rows for image, rows in images.items() if len({r.values.get(column) for r in rows}) > 1}
        if several:
            lines = {image: ", ".join(str(row.line) for row in rows) for image, rows in several.items()}
            where = tuple(f"{several[image][0].values['path']} (lines {lines[image]})" for image in several)
            yield Problem(f"images with more than one {column}", where)
    regular = {image: disk.is_regular(image) for image in images}
    for what, answer in (("images that are missing", None), ("images that are no regular files", False)):
        if where := tuple(rows[0].values["path"] for image, rows in images.items() if regular[image] is answer):
            yield Problem(what, where)


def _notes(images: Mapping[str, Sequence[TableRow]], left_out: Sequence[str]) -> Iterator[Problem]:
    if left_out:
        yield Problem(f"{len(left_out)} pictures are left out", formats.counted(left_out))
    if repeated := sum(len(rows) - 1 for rows in images.values()):
        yield Problem(f"{repeated} rows list an image again; each image counts once")


def _name_problems(images: Mapping[str, Sequence[TableRow]]) -> Iterator[Problem]:
    names: dict[str, set[str]] = defaultdict(set)
    for rows in images.values():
        for row in rows:
            names[row.values["label"]].add(row.values.get("name", row.values["label"]))
    several = {label: given for label, given in names.items() if len(given) > 1}
    if several:
        yield Problem(
            "labels with more than one name", tuple(f"{x} ({', '.join(sorted(several[x]))})" for x in several)
        )


def _class_names(images: Mapping[str, Sequence[TableRow]]) -> dict[str, str]:
    """{label: name}, in the order of the labels."""
    rows = [rows[0] for rows in images.values()]
    names = {row.values["label"]: row.values.get("name", row.values["label"]) for row in rows}
    if not all(label.removeprefix("-").isdecimal() for label in names):
        return dict(sorted(names.items()))
    return dict(sorted(names.items(), key=lambda item: int(item[0])))


def _root(folder: Path, images: Iterable[str]) -> str:
    """The table's folder if all images lie in it, else the deepest folder that they share."""
    folders = {os.path.dirname(image) for image in images}
    home = os.path.abspath(folder)
    return home if not folders or os.path.commonpath([home, *folders]) == home else os.path.commonpath(folders)
