"""What a dataset holds, and which of its images cannot be read."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from pini_jax.core.errors import InputError
from pini_jax.core.wording import plain
from pini_jax.data.datasets.findings import Findings, suffix_counts
from pini_jax.data.datasets.records import Dataset, Record, read_image
from pini_jax.data.datasets.unreadable import BATCH
from pini_jax.data.transforms import to_rgb

SPLITS = ("train", "val", "test")


class Look(NamedTuple):
    """The properties of one image.

    Attributes:
        split: the split that it is in.
        record: its record.
        digest: SHA-256 of its file; empty where the file cannot be read.
        mode: PIL's, of the file.
        size: width and height.
        error: why it cannot be decoded, or nothing.
    """

    split: str
    record: Record
    digest: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    error: str = ""


class Report(NamedTuple):
    """The properties of all images.

    Attributes:
        images: all of them, those that cannot be decoded among them.
        across: groups with the same bytes in more than one split.
        repeats: {split: images with the bytes of another one in the split}.
    """

    images: tuple[Look, ...]
    across: tuple[tuple[Look, ...], ...]
    repeats: Counter[str]

    @property
    def unreadable(self) -> tuple[Look, ...]:
        return tuple(look for look in self.images if look.error)


def look_at_dataset(dataset: Dataset) -> Report:
    """Reads and decodes every image, with a bar on stderr."""
    images = tuple(_look_at_all(dataset))
    groups: dict[str, list[Look]] = defaultdict(list)
    for look in images:
        if look.digest:
            groups[look.digest].append(look)
    repeats: Counter[str] = Counter()
    for group in groups.values():
        for split, number in Counter(look.split for look in group).items():
            repeats[split] += number - 1
    across = tuple(tuple(group) for group in groups.values() if len({look.split for look in group}) > 1)
    return Report(images, across, repeats)


def _look_at_all(dataset: Dataset) -> Iterator[Look]:
    images = [(split, r) for split, records in zip(SPLITS, dataset[2:], strict=True) for r in records]
    with ThreadPoolExecutor() as pool, tqdm(total=len(images), unit="image", desc="reading") as bar:
        for start in range(0, len(images), BATCH):
            for look in pool.map(_look_at, *zip(*images[start : start + BATCH], strict=True)):
                bar.update()
                yield look


def _look_at(split: str, record: Record) -> Look:
    try:
        content = _content(record)
    except Exception as error:  # the reader of a damaged archive raises anything at all
        reason = getattr(error, "strerror", None) or plain(error) or type(error).__name__
        return Look(split, record, error=f"image {plain(record.id)} cannot be read ({reason})")
    digest = hashlib.sha256(content).hexdigest()
    try:
        mode, size = read_image(record._replace(source=content), _decode)
    except InputError as error:
        return Look(split, record, digest, error=str(error))
    return Look(split, record, digest, mode, size)


def _decode(file: Image.Image) -> tuple[str, tuple[int, int]]:
    """Mode and size of the file, whose pixels can be read."""
    mode, size = file.mode, file.size
    to_rgb(file)
    return mode, size


def _content(record: Record) -> bytes:
    if isinstance(record.source, Path):
        return record.source.read_bytes()
    assert not isinstance(record.source, Image.Image), "a program's own pictures are in no dataset that is checked"
    return record.source() if callable(record.source) else record.source


# ------------------------------------------------------------------------------------------------ as text


def text(findings: Findings, report: Report) -> str:
    """The report as lines, what is wrong last."""
    dataset = findings.dataset
    names = tuple(map(plain, dataset.class_names))
    counts = {split: Counter(r.label for r in records) for split, records in zip(SPLITS, dataset[2:], strict=True)}
    return "\n".join(
        [
            f"{dataset.name}: {len(names)} classes, {len(report.images)} images",
            *_class_lines(names, counts),
            *_split_lines(names, counts),
            *_image_lines(report),
            *_ignored_lines(findings.ignored),
            *_duplicate_lines(names, report),
            *(f"warning: {note}" for note in findings.notes),
            *_wrong_lines(findings, report),
        ]
    )


def _class_lines(names: Sequence[str], counts: dict[str, Counter[int]]) -> Iterator[str]:
    width = max(map(len, (*names, "class")))
    yield f"  {'class':<{width}}" + "".join(f"{split:>9}" for split in counts)
    for label, name in enumerate(names):
        yield f"  {name:<{width}}" + "".join(f"{count[label]:>9}" for count in counts.values())


def _split_lines(names: Sequence[str], counts: dict[str, Counter[int]]) -> Iterator[str]:
    for split, count in counts.items():
        classes = sorted((count[label], name) for label, name in enumerate(names))
        if not classes:
            continue
        (least, rarest), (most, commonest) = classes[0], classes[-1]
        yield f"{split}: {count.total()} images; of a class {least} ({rarest}) to {most} ({commonest})"
        if empty := sum(number == 0 for number, _ in classes):
            yield f"  without an image: {', '.join(name for _, name in classes[:empty])}"


def _image_lines(report: Report) -> Iterator[str]:
    sizes = np.array([look.size for look in report.images if not look.error])
    if not len(sizes):
        return
    for side, values in zip(("width", "height"), sizes.T, strict=True):
        yield f"{side}: {values.min()} to {values.max()}, median {np.median(values):g}"
    modes = Counter(look.mode for look in report.images if not look.error)
    yield "modes: " + ", ".join(f"{mode} {number}" for mode, number in modes.most_common())


def _ignored_lines(ignored: Sequence[str]) -> Iterator[str]:
    if ignored:
        kinds = ", ".join(f"{kind} {number}" for kind, number in suffix_counts(ignored).most_common())
        yield f"ignored: {len(ignored)} that are no images ({kinds})"


def _duplicate_lines(names: Sequence[str], report: Report) -> Iterator[str]:
    if repeats := +report.repeats:
        listed = ", ".join(f"{split} {number}" for split, number in repeats.items())
        yield f"repeated within a split, byte by byte: {listed}"
    if report.across:
        yield f"warning: the same bytes are in more than one split, {len(report.across)} times:"
    for group in report.across:
        labels = dict.fromkeys(look.record.label for look in group)
        note = f" (labels differ: {', '.join(names[label] for label in labels)})" if len(labels) > 1 else ""
        yield "  " + " = ".join(f"{look.split}:{plain(look.record.id)}" for look in group) + note


def _wrong_lines(findings: Findings, report: Report) -> Iterator[str]:
    for problem in findings.problems:
        yield f"wrong: {problem.what}{':' if problem.where else ''}"
        yield from (f"  {plain(where)}" for where in problem.where)
    if unreadable := report.unreadable:
        yield f"wrong: images that cannot be read, {len(unreadable)}:"
        yield from (f"  {plain(look.error)}" for look in unreadable)
    if not findings.problems and not report.unreadable:
        yield "nothing is wrong" + (", unless a warning above says so" if findings.notes else "")
