"""Images that cannot be read: which they are, and a dataset without them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from PIL import Image

import pini_jax
from pini_jax.core import progress, stop
from pini_jax.core.errors import InputError
from pini_jax.core.paths import cache_folder
from pini_jax.core.wording import listed
from pini_jax.data import cache
from pini_jax.data.datasets import findings, formats
from pini_jax.data.datasets.records import Dataset, Record, read_image, stamp
from pini_jax.data.transforms import to_rgb

LOG = logging.getLogger(__name__)
BATCH = 1024  # images that wait for a thread at a time
LEAST, PART = 5, 100  # of a user's own images five may be unreadable, or one in a hundred


def set_aside(dataset: Dataset, bound: int | None = None) -> tuple[Dataset, dict[str, str]]:
    """The dataset without the images that cannot be read, and {id: why} of these.

    Every image is decoded, once: those that could be are remembered in the cache by place, size and times of their
    files. To be called before a selection is drawn.

    Args:
        dataset: a user's own; in the fixed splits of papers a missing image is an error.
        bound: how many may be left out; None for the greater of 5 and 1 %.

    Raises:
        InputError: more than that cannot be read, or what is left cannot be trained or tested on.
    """
    images = dataset.train + dataset.val + dataset.test
    left_out = _errors(images, _memory(dataset))
    if not left_out:
        return dataset, {}
    bound = max(LEAST, len(images) // PART) if bound is None else bound
    said = f"{dataset.name}: {len(left_out)} of {len(images)} images cannot be read"
    named = f"({listed(left_out.values(), '; ')}); python -m pini_jax.data check lists all"
    if len(left_out) > bound:
        raise InputError(f"{said}, more than the {bound} that may be left out {named}")
    train, val, test = (tuple(r for r in split if r.id not in left_out) for split in dataset[2:])
    kept = dataset._replace(train=train, val=val, test=test)
    if problems := list(findings.split_problems(kept, {})):
        raise InputError(f"{said}, which leaves {'; '.join(map(str, problems))} {named}")
    LOG.warning("%s and are left out %s", said, named)
    return kept, left_out


def refuse_unreadable(records: Sequence[Record]) -> None:
    """Raises InputError that names the images which are missing or cannot be decoded, if there is one."""
    if errors := _errors(records):
        raise InputError(listed(errors.values(), "; "))


def _errors(records: Sequence[Record], memory: Path | None = None) -> dict[str, str]:
    """{id: why} of the images that cannot be decoded; those that a file of the cache knows are not looked at."""
    stamps = {record.id: _hash(stamp(record)) for record in records} if memory else {}
    readable = _remembered(memory) & set(stamps.values()) if memory else set()
    new = [record for record in records if stamps.get(record.id) not in readable]
    errors = {}
    try:
        for record, error in _look_at(new):
            if error:
                errors[record.id] = error
            elif memory:
                readable.add(stamps[record.id])
    finally:  # what stops a look loses nothing of it
        if memory and new:
            _remember(memory, sorted(readable))
    return errors


def _look_at(records: Sequence[Record]) -> Iterator[tuple[Record, str]]:
    with (
        ThreadPoolExecutor() as pool,
        progress.bar(total=len(records), unit="image", desc="looking", delay=2) as bar,
    ):
        for start in range(0, len(records), BATCH):
            batch = records[start : start + BATCH]
            for record, error in zip(batch, pool.map(_error, batch), strict=True):
                if jax.process_count() == 1:  # several may have looked at other numbers of images before
                    stop.raise_if_requested()
                bar.update()
                yield record, error


def _error(record: Record) -> str:
    try:
        read_image(record, _decode)
    except InputError as error:
        return str(error)
    return ""


def _decode(file: Image.Image) -> None:
    file.draft("RGB", (1, 1))  # of a JPEG all bytes are read, but an eighth of the pixels made
    to_rgb(file)


# ------------------------------------------------------------------------------------------------ memory


def _memory(dataset: Dataset) -> Path:
    """The file that says which images of a dataset could be decoded, by this version of what decodes."""
    key = f"{dataset.name}\n{pini_jax.__version__}\n{formats.VERSION}"
    return cache_folder() / "readable" / f"{_hash(key)}.txt"


def _remembered(file: Path) -> set[str]:
    """The stamps in a file; none where its last line is not the hash of those before."""
    try:
        *stamps, digest = file.read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return set()
    return set(stamps) if _hash("\n".join(stamps)) == digest else set()


def _remember(file: Path, stamps: Sequence[str]) -> None:
    text = "\n".join(stamps)
    cache.keep(file, f"{text}\n{_hash(text)}".encode())


def _hash(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()
