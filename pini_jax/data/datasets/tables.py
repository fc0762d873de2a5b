"""A table of images: a CSV with a header, or JSON Lines.

| column  | holds                                                                                              |
|---------|----------------------------------------------------------------------------------------------------|
| `path`  | the image, absolute or relative to the table's folder; a backslash is read as a slash              |
| `label` | the class's name; or, with a column `name`, whatever stands for the class, such as its number      |
| `name`  | optional: the class's name                                                                         |
| `split` | optional: train, val (or valid, validation) or test; without it, or where val or test is missing,  |
|         | images are cut off as `pini_jax.data.splits` says                                                  |

Other columns are not read. Classes have the order of their labels: of numbers if all are whole numbers, else of
text. Text is UTF-8; blank lines are skipped; an image that is listed again in the same way counts once.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import findings, splits
from pini_jax.data.datasets.findings import Findings, Problem
from pini_jax.data.datasets.records import Dataset, Record

NEEDED = ("path", "label")
COLUMNS = (*NEEDED, "name", "split")
LOG = logging.getLogger(__name__)


class Row(NamedTuple):
    """What a line of a table says.

    Attributes:
        line: its number in the file.
        values: text by column, without white space around it.
        fault: why it cannot be used, or nothing.
    """

    line: int
    values: Mapping[str, str]
    fault: str = ""


class Table(NamedTuple):
    """Rows, and the names of all columns, in lower case."""

    columns: Sequence[str]
    rows: Sequence[Row]


def load(path: Path, seed: int) -> Dataset:
    """The images that a table lists, sorted by their ids.

    Ids are relative to the table's folder if all images lie in it, else to the deepest folder that they share.

    Raises:
        InputError: the table cannot be read, or not all in it is as it should be; all problems are named.
    """
    return find(path, seed).accepted()


def find(path: Path, seed: int) -> Findings:
    """As `load`, but what can be mended becomes the problems of the findings.

    Raises:
        InputError: the table cannot be read, or lacks a column, or has no rows.
    """
    table = read(path)
    images: dict[str, list[Row]] = defaultdict(list)
    faults: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        if fault := row.fault or _fault(row.values, table.columns):
            faults[fault].append(f"line {row.line}")
        else:
            images[os.path.abspath(path.parent / row.values["path"])].append(row)
    problems = [Problem(fault, tuple(lines)) for fault, lines in faults.items()]
    problems += [*_of_images(images), *_of_names(images)]
    names = _class_names(images)
    labels = {label: i for i, label in enumerate(names)}
    parts: dict[str, list[Record]] = {} if "split" in table.columns else {"train": []}
    root = _root(path.parent, images)
    for image in sorted(images):
        values, id = images[image][0].values, image[len(root) :].lstrip(os.sep).replace(os.sep, "/")
        record = Record(id, Path(image), labels[values["label"]])
        parts.setdefault(values.get("split", "train"), []).append(record)
    dataset = splits.complete(str(path), [*names.values()], parts, seed)
    return findings.inspect(dataset, parts, problems)


# ------------------------------------------------------------------------------------------------ rows


def read(path: Path) -> Table:
    """The rows of a table.

    Raises:
        InputError: it cannot be read, or lacks a column, or has no rows.
    """
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path} is no table: its name must end in {' or '.join(READERS)}")
    try:
        table = READERS[path.suffix.lower()](path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path} is no CSV ({error})") from None
    missing = [column for column in NEEDED if column not in table.columns]
    if missing and not any(row.fault for row in table.rows):
        there = ", ".join(map(repr, table.columns)) or "none"
        raise InputError(f"{path} has no column {' and no column '.join(missing)}; its columns: {there}")
    if not table.rows:
        raise InputError(f"{path} lists no images")
    return table


def _read_csv(text: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    columns: list[str] | None = None
    rows = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if columns is None:
            columns = [cell.lower() for cell in cells]
            if twice := [column for column in COLUMNS if columns.count(column) > 1]:
                raise csv.Error(f"it has two columns {twice[0]}")
            continue
        fits = len(cells) == len(columns)
        fault = f"rows of {len(cells)} fields under a header of {len(columns)} (quote what holds a comma)"
        rows.append(Row(reader.line_num, _clean(dict(zip(columns, cells, strict=False))), "" if fits else fault))
    return Table(columns or [], rows)


def _read_json_lines(text: str) -> Table:
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    rows = [_json_row(number, line) for number, line in lines]
    return Table([*dict.fromkeys(column for row in rows for column in row.values)], rows)


def _json_row(number: int, line: str) -> Row:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return Row(number, {}, "lines that are no JSON object")
    values = {key.strip().lower(): value for key, value in content.items()}
    odd = any(not _is_cell(values[column]) for column in COLUMNS if column in values)
    cells = {column: "" if value is None else str(value).strip() for column, value in values.items()}
    return Row(number, _clean(cells), "rows with a value that is neither text nor a whole number" if odd else "")


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


READERS: Mapping[str, Callable[[str], Table]] = {".csv": _read_csv, ".jsonl": _read_json_lines}


def _fault(values: Mapping[str, str], columns: Sequence[str]) -> str:
    """What keeps a row from being used, or nothing."""
    if absent := [column for column in COLUMNS if column in columns and not values.get(column)]:
        return (
            f"a label without a name ({values['label']})" if absent == ["name"] else f"rows without a {absent[0]}"
        )
    split = values.get("split", "train")
    return "" if split in splits.SPLITS.values() else f"rows of a split {split!r}, which is no train, val or test"


# ------------------------------------------------------------------------------------------------ images, classes


def _of_images(images: Mapping[str, Sequence[Row]]) -> Iterator[Problem]:
    for column in ("label", "split"):
        several = {image: rows for image, rows in images.items() if len({r.values.get(column) for r in rows}) > 1}
        if several:
            lines = {image: ", ".join(str(row.line) for row in rows) for image, rows in several.items()}
            where = tuple(f"{several[image][0].values['path']} (lines {lines[image]})" for image in several)
            yield Problem(f"images with more than one {column}", where)
    if missing := [*_missing(images)]:
        yield Problem("images that are missing", tuple(images[image][0].values["path"] for image in missing))
    if repeated := sum(len(rows) - 1 for rows in images.values()):
        LOG.warning("%d rows list an image again; each image counts once", repeated)


def _missing(images: Iterable[str]) -> Iterator[str]:
    """By one listing of each folder: a look at every image on its own is slow on a network's disks."""
    listings: dict[str, set[str]] = {}
    for image in images:
        folder, file = os.path.split(image)
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder))
            except (OSError, ValueError):  # a path may hold a NUL
                listings[folder] = set()
        if file not in listings[folder]:
            yield image


def _of_names(images: Mapping[str, Sequence[Row]]) -> Iterator[Problem]:
    names: dict[str, set[str]] = defaultdict(set)
    for rows in images.values():
        for row in rows:
            names[row.values["label"]].add(row.values.get("name", row.values["label"]))
    several = {label: given for label, given in names.items() if len(given) > 1}
    if several:
        yield Problem(
            "labels with more than one name", tuple(f"{x} ({', '.join(sorted(several[x]))})" for x in several)
        )


def _class_names(images: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """{label: name}, in the order of the labels."""
    rows = [rows[0] for rows in images.values()]
    names = {row.values["label"]: row.values.get("name", row.values["label"]) for row in rows}
    if not all(label.removeprefix("-").isdecimal() for label in names):
        return dict(sorted(names.items()))
    if rows and "name" not in rows[0].values:
        LOG.warning("labels are numbers, and no column `name` says what they mean: prompts will show the numbers")
    return dict(sorted(names.items(), key=lambda item: int(item[0])))


def _root(folder: Path, images: Iterable[str]) -> str:
    """The table's folder if all images lie in it, else the deepest folder that they share."""
    folders = {os.path.dirname(image) for image in images}
    home = os.path.abspath(folder)
    return home if not folders or os.path.commonpath([home, *folders]) == home else os.path.commonpath(folders)
