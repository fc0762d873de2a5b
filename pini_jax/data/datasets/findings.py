"""A dataset as it was found, with all that is wrong with it."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pini_jax.core.errors import InputError
from pini_jax.data.datasets.records import Dataset, Record

SHOWN = 10  # how many places an error names; the check names all


class Problem(NamedTuple):
    """One kind of thing that is wrong, and every place where it is.

    Attributes:
        what: the thing, in the plural or with its number.
        where: classes, images or lines; may be empty.
    """

    what: str
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = len(self.where) - SHOWN
        shown = ", ".join(self.where[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"{self.what}: {shown}" if shown else self.what


class Findings(NamedTuple):
    """What a loader has found.

    Attributes:
        dataset: what can be used; not to be used while there are problems.
        problems: all that must be mended.
        ignored: ids of files that are no images.
    """

    dataset: Dataset
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()

    def accepted(self) -> Dataset:
        """The dataset.

        Raises:
            InputError: there are problems; the message names all of them.
        """
        if self.problems:
            raise InputError(f"{self.dataset.name}: {'; '.join(map(str, self.problems))}")
        return self.dataset


def inspect(
    dataset: Dataset,
    own: Mapping[str, Sequence[Record]],
    problems: Iterable[Problem] = (),
    ignored: Iterable[str] = (),
) -> Findings:
    """The dataset, with what is wrong with its classes and splits as such.

    Args:
        dataset: complete.
        own: the splits that it has itself, under `train`, `val` and `test`; none of these may be empty.
        problems: what else is wrong.
        ignored: files that are no images.
    """
    return Findings(dataset, (*problems, *_of_classes(dataset), *_of_splits(dataset, own)), tuple(ignored))


def _of_classes(dataset: Dataset) -> Iterator[Problem]:
    names = dataset.class_names
    labels = {record.label for split in dataset[2:] for record in split}
    nameless = (labels - set(range(len(names)))) | {label for label, name in enumerate(names) if not spoken(name)}
    if nameless:
        yield Problem("labels without a name", tuple(map(str, sorted(nameless))))
    if same := same_names(names):
        yield Problem("classes with one name", same)
    if len(names) == 1:
        yield Problem("a single class, where it takes two", names)


def _of_splits(dataset: Dataset, own: Mapping[str, Sequence[Record]]) -> Iterator[Problem]:
    # Where no class has an image to spare, nothing is cut off for validation, and a run can do without.
    needed = {"train": dataset.train, "test": dataset.test, **own}
    if empty := tuple(split for split, records in needed.items() if not records):
        yield Problem("splits without an image", empty)
    found = {record.label for record in dataset.train}
    missing = tuple(name for label, name in enumerate(dataset.class_names) if label not in found)
    if missing and found:
        yield Problem("classes without a training image", missing)


def spoken(name: str) -> str:
    """What a prompt says for a class, up to case: `_` and runs of white space are one space."""
    return " ".join(unicodedata.normalize("NFKC", name).replace("_", " ").split()).casefold()


def same_names(names: Sequence[str]) -> tuple[str, ...]:
    """`a = A = a_` for all names that a prompt does not tell apart."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[spoken(name)].append(name)
    return tuple(" = ".join(map(repr, same)) for key, same in groups.items() if key and len(same) > 1)


def suffix_counts(ids: Iterable[str]) -> Counter[str]:
    """How many files there are of each ending, the hidden ones apart."""

    def ending(id: str) -> str:
        name = id.rpartition("/")[2]
        return "hidden" if name.startswith(".") else "." + name.rpartition(".")[2] if "." in name else "no ending"

    return Counter(map(ending, ids))
