"""Datasets of TensorFlow Datasets, read without TensorFlow.

They are read where TFDS has prepared them as array_record. To prepare them nearly always takes TensorFlow, so that
is done once, where it is installed:

    tfds build oxford_iiit_pet --file_format=array_record --data_dir=DIR

The splits are TFDS's own `train`, `validation` and `test`; others are left out, and so is one without labels. What
is then missing is cut off by the table in `pini_jax.data.datasets.splits`. Images stay in the files, as they were
encoded.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pini_jax.core import copies, extras
from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.data.datasets import findings, splits
from pini_jax.data.datasets.findings import Findings
from pini_jax.data.datasets.records import Record

# The names of few-shot papers -> TFDS's; "" where it does not have the dataset.
NAMES = {
    "fgvc_aircraft": "",
    "imagenet": "imagenet2012",
    "imagenetv2": "imagenet_v2",
    "oxford_flowers": "oxford_flowers102",
    "oxford_pets": "oxford_iiit_pet",
    "stanford_cars": "cars196",
    "ucf101": "",
}
LOG = logging.getLogger(__name__)
Examples = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Example:
    """The place of an image; a call reads the bytes of its file.

    Attributes:
        dataset: name, with config and version.
        split: TFDS's name of the split.
        state: changes when the split's files do, so that its representation names the content.
        index: position in the split.
        examples: TFDS's data source of the split.
        key: the feature that holds the image.
    """

    dataset: str
    split: str
    state: str
    index: int
    examples: Examples = dataclasses.field(compare=False, repr=False)
    key: str = dataclasses.field(compare=False, repr=False)

    def __call__(self) -> bytes:
        return self.examples[self.index][self.key]


def find_tfds(name: str, data_dir: Path | None, seed: int) -> Findings:
    """Dataset `name[/config][:version]` of TFDS; ids are `split/index`, in TFDS's order.

    Problems that the user can correct are returned in the findings.

    Args:
        name: as TFDS writes it.
        data_dir: where TFDS has prepared it; None for TFDS's own default.
        seed: of what is cut off.

    Raises:
        InputError: TFDS does not have it, or it is not prepared, or damaged, or no image classification.
    """
    info = _prepared(name, data_dir)
    image, label = _keys(name, info)
    title, used = f"tfds:{info.full_name}", _used(info)
    parts = {}
    for split, source in _sources(name, data_dir, info, [*used]).items():
        labels = _labels(title, split, source, label)
        state = _state(info.splits[split].filepaths)
        example = functools.partial(Example, info.full_name, split, state, examples=source, key=image)
        records = [Record(f"{split}/{i}", example(i), x) for i, x in enumerate(labels)]
        if any(record.label >= 0 for record in records):  # ImageNet's test set has no labels
            parts[used[split]] = records
    if left_out := ", ".join(split for split in info.splits if used.get(split) not in parts):
        LOG.info("%s: of its splits these are left out: %s", title, left_out)
    return findings.inspect(splits.complete(title, info.features[label].names, parts, seed, carve=True), parts)


def _tfds() -> Any:
    """TFDS itself: half a second to import, and needed for its datasets only."""
    return extras.require("tensorflow_datasets", "tfds")


def _prepared(name: str, data_dir: Path | None) -> Any:
    """TFDS's description of a dataset that lies on the disk as array_record.

    Raises:
        InputError: TFDS does not have it, or it does not lie there so.
    """
    tfds = _tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise InputError(_unknown(name, tfds.list_builders(with_community_datasets=False))) from None
    except Exception as error:  # versions, configs and damaged descriptions raise all sorts
        raise InputError(f"tfds:{name} cannot be opened ({_reason(error)})") from None
    wanted = tfds.core.FileFormat.ARRAY_RECORD
    if not builder.is_prepared():
        place = f" --data_dir={data_dir}" if data_dir else ""
        raise InputError(
            f"tfds:{name} is not prepared in {builder.data_path}; where TensorFlow is installed, run once: "
            f"tfds build {name} --file_format={wanted.value}{place}"
        )
    if wanted not in builder.info.available_file_formats():
        raise InputError(
            f"tfds:{name} is prepared as {builder.info.file_format.value}, which only TensorFlow reads; where "
            f"that is installed, run once: tfds convert_format --dataset_version_dir={builder.data_path} "
            f"--out_file_format={wanted.value}"
        )
    return builder.info


def _unknown(name: str, known: list[str]) -> str:
    word = re.split("[/:]", name)[0]
    if NAMES.get(word):
        return f"TFDS has no {word}: it is {NAMES[word]} there"
    if word in NAMES:
        return f"TFDS does not have {word}: lay it out as CoOp's DATASETS.md says, and name it without tfds:"
    close = did_you_mean(word, known)
    return f"TFDS has no {word!r}{close if 'did you mean' in close else ', and none lies in its folder'}"


def _keys(name: str, info: Any) -> tuple[str, str]:
    """The features that hold image and label."""
    features, kinds = info.features, _tfds().features
    keys = info.supervised_keys or ("image", "label")
    if len(keys) == 2 and all(isinstance(key, str) and key in features for key in keys):
        image, label = (features[key] for key in keys)
        # TFDS writes floats as if they were RGBA; PIL would read them as that.
        if isinstance(image, kinds.Image) and image.np_dtype != np.float32 and isinstance(label, kinds.ClassLabel):
            return keys
    there = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    raise InputError(f"tfds:{name} is no image classification; its features: {there}")


def _used(info: Any) -> dict[str, str]:
    """{TFDS's split: ours}; a single split is for training, whatever its name, unless it is a test."""
    used = {split: splits.SPLITS[split] for split in info.splits if split in splits.SPLITS}
    return used or (dict.fromkeys(info.splits, "train") if len(info.splits) == 1 else {})


def _sources(name: str, data_dir: Path | None, info: Any, used: list[str]) -> dict[str, Examples]:
    tfds = _tfds()
    images = [key for key, feature in info.features.items() if isinstance(feature, tfds.features.Image)]
    decoders = dict.fromkeys(images, tfds.decode.SkipDecoding())
    try:
        sources = tfds.data_source(name, split=used, data_dir=data_dir, download=False, decoders=decoders)
    except Exception as error:  # as above
        raise InputError(f"tfds:{name} cannot be opened ({_reason(error)})") from None
    return dict(zip(used, sources, strict=True))


def _labels(title: str, split: str, source: Examples, key: str) -> list[int]:
    # Every example must be read for it, its image too: some 10,000 in a second.
    try:
        return [int(example[key]) for example in tqdm(source, f"labels of {split}", leave=False, disable=None)]
    except Exception as error:  # whatever the reader of a damaged file raises
        raise InputError(f"{title}: the files of {split} cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _state(files: Iterable[os.PathLike[str]]) -> str:
    """A hash of the sizes and times of files; of copies from a bucket the same on every machine."""
    known = [copies.name_of(Path(file)) or _written(file) for file in files]
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _written(file: os.PathLike[str]) -> tuple[int, int]:
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns
