"""A dataset as it was found, with all that is wrong with it."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pini_jax.core.errors import InputError
from pini_jax.core.wording import MOST, listed, printable
from pini_jax.data.datasets.records import Dataset, Record

LOG = logging.getLogger(__name__)
# Numbers, with or without a word that only counts, ids of WordNet, and what programs write for truth and absence.
_SILENT = re.compile(
    r"((class|cls|label|category|group|cluster|type|kind|species|folder|object|item|subject|id|no|nr)?[ .:#-]*)"
    r"[-+]?\d+([.,]\d+)?(e[-+]?\d+)?|n\d{8}|true|false|nan|null|none"
)
_NUMBERED = re.compile(r"([a-z])[ -]?\d+")  # c0, c1: a code where all names are so, and else perhaps an aeroplane
_JOINTS = re.compile(r"[|;,/&+\n]")


class Problem(NamedTuple):
    """One kind of problem or remark, and every place where it occurs.

    Attributes:
        what: the thing, in the plural or with its number.
        where: classes, images or lines; may be empty.
    """

    what: str
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = printable(self.what)  # which may hold names of folders
        return f"{what}: {listed(self.where)}" if self.where else what


class Findings(NamedTuple):
    """What a loader has found.

    Attributes:
        dataset: what can be used; not to be used while there are problems.
        problems: all that must be mended.
        ignored: ids of files that are no images.
        notes: what may have been meant otherwise, but keeps nobody from a run.
    """

    dataset: Dataset
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[Problem, ...] = ()

    def accepted(self) -> Dataset:
        """The dataset; the notes are logged.

        Raises:
            InputError: there are problems; the message names all of them.
        """
        if self.problems:
            raise InputError(f"{self.dataset.name}: {'; '.join(map(str, self.problems))}")
        for note in self.notes:
            LOG.warning("%s: %s", self.dataset.name, note)
        return self.dataset


def inspect(
    dataset: Dataset,
    own: Mapping[str, Sequence[Record]],
    problems: Iterable[Problem] = (),
    ignored: Iterable[str] = (),
    notes: Iterable[Problem] = (),
) -> Findings:
    """The dataset, with what is wrong with its classes, their names in prompts, and its splits as such.

    Args:
        dataset: complete.
        own: the splits that it has itself, under `train`, `val` and `test`; none of these may be empty.
        problems: what else is wrong.
        ignored: files that are no images.
        notes: what else is worth a look.
    """
    wrong = (
        *problems,
        *class_problems(dataset),
        *name_problems(dataset.class_names),
        *split_problems(dataset, own),
    )
    return Findings(dataset, wrong, tuple(ignored), (*notes, *_notes_of_names(dataset.class_names)))


def class_problems(dataset: Dataset) -> Iterator[Problem]:
    """What is wrong with the classes, whatever they are called."""
    names = dataset.class_names
    labels = {record.label for split in dataset[2:] for record in split}
    nameless = (labels - set(range(len(names)))) | {label for label, name in enumerate(names) if not spoken(name)}
    if nameless:
        yield Problem("labels without a name", tuple(map(str, sorted(nameless))))
    if len(names) == 1:
        yield Problem("one class, where it takes two", names)


def name_problems(names: Sequence[str]) -> Iterator[Problem]:
    """What keeps a prompt from telling classes apart."""
    if same := same_names(names):
        yield Problem("classes with one name", same)


def _notes_of_names(names: Sequence[str]) -> Iterator[Problem]:
    numbered = [_NUMBERED.fullmatch(spoken(name)) for name in names]
    alike = all(numbered) and len({match[1] for match in numbered if match}) == 1
    if silent := tuple(name for name in names if alike or _SILENT.fullmatch(spoken(name))):
        what = "names that say nothing of their class, though prompts show them"
        yield Problem(f"{what} (rename the folders, or give a table a column `name`)", silent)
    known = set(map(spoken, names))
    if joined := tuple(name for name in names if known.intersection(_parts(name))):
        yield Problem("names that join those of other classes, where an image has one class only", joined)


def _parts(name: str) -> list[str]:
    """`a|b`, `a + b` and `['a', 'b']` are a and b; `a` has no parts."""
    parts = [spoken(part.strip(" []()'\"")) for part in _JOINTS.split(name)]
    return parts if len(parts) > 1 else []


def split_problems(dataset: Dataset, own: Mapping[str, Sequence[Record]]) -> Iterator[Problem]:
    """What is wrong with the splits; those in `own` must hold images, as those for training and test."""
    # Where no class has an image to spare, nothing is cut off for validation, and a run can do without.
    needed = {"train": dataset.train, "test": dataset.test, **own}
    if empty := tuple(split for split, records in needed.items() if not records):
        yield Problem("splits without an image", empty)
    present = {record.label for record in dataset.train}
    missing = tuple(name for label, name in enumerate(dataset.class_names) if label not in present)
    if missing and present:
        yield Problem("classes without a training image", missing)


def spoken(name: str) -> str:
    """What can be seen of a class's name in a prompt, up to case: `_` and runs of white space are one space."""
    words = unicodedata.normalize("NFKC", name).replace("_", " ").split()
    return " ".join("".join(filter(str.isprintable, word)) for word in words).strip().casefold()


def same_names(names: Sequence[str]) -> tuple[str, ...]:
    """`a = A = a_` for all names that a prompt does not tell apart."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[spoken(name)].append(name)
    return tuple(_equated(same[:MOST]) for key, same in groups.items() if key and len(same) > 1)


def _equated(names: Sequence[str]) -> str:
    """Names as Python writes them, letter by letter where they look the same: an accent may be its own letter."""
    look = {unicodedata.normalize("NFC", name) for name in names}
    return " = ".join(map(repr if len(look) == len(names) else ascii, names))


def suffix_counts(ids: Iterable[str]) -> Counter[str]:
    """How many files there are of each ending, the hidden ones apart."""

    def ending(id: str) -> str:
        name = id.rpartition("/")[2]
        return "hidden" if name.startswith(".") else "." + name.rpartition(".")[2] if "." in name else "no ending"

    return Counter(map(ending, ids))
