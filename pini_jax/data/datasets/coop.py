"""The datasets that methods for few-shot CLIP are compared on, in the folders of CoOp's DATASETS.md.

Eleven datasets, and four more test sets for ImageNet's classes ("shifts"). Splits are read, never made: a run on
another machine sees the same images in the same order.

ImageNet has no validation images here: CoOp validates on its test set, and no test image may choose anything. Its
training list is sorted, where CoOp's has the order of the file system, so selections differ from CoOp's own. Its
names are those of OpenAI's notebook, kept in assets/imagenet_classnames.txt; a classnames.txt beside the images is
not read. Two pairs of its classes share a name there, "missile" and "sunglasses", as in published results.

Source: KaiyangZhou/CoOp, DATASETS.md and datasets/.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.core.paths import ASSETS
from pini_jax.core.wording import plain
from pini_jax.data.datasets.findings import Findings, Problem
from pini_jax.data.datasets.records import Dataset, Record
from pini_jax.data.datasets.tree import is_system

LOG = logging.getLogger(__name__)
WHERE_TO_GET = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
IMAGENET_NAMES = ASSETS / "imagenet_classnames.txt"
SPLITS = ("train", "val", "test")
SUFFIXES = (".jpeg", ".jpg", ".png")
SHOWN = 5  # how many of a long list an error names


class Listing(NamedTuple):
    """What is read of a dataset, before it is known to be whole.

    Attributes:
        names: label -> class name.
        splits: {split: its records, in order}, for the splits that the dataset has.
        problems: what is wrong, a line each.
    """

    names: Mapping[int, str]
    splits: Mapping[str, Sequence[Record]]
    problems: list[str]


@dataclasses.dataclass(frozen=True)
class CoopLayout:
    """The layout of a dataset: where its files are, and how they are read.

    Attributes:
        classes: how many the whole dataset has.
        folder: its folder under the root.
        images: the folder of images within it; the ids of records are relative to that.
        read: (layout, folder) -> what is found.
        lists: files that say which image is in which split and class.
        places: folders within `images` that must be there.
        rename: a class name of the lists -> the papers' name; the papers' names stay as they are.
        categories: file of {"label + 1": name} that goes before the names of the lists, where it is there.
    """

    classes: int
    folder: str
    images: str
    read: Callable[[CoopLayout, Path], Listing]
    lists: tuple[str, ...] = ()
    places: tuple[str, ...] = ("",)
    rename: Callable[[str], str] = str
    categories: str = ""

    @property
    def tree(self) -> tuple[str, ...]:
        """The tree of files that must be in `folder`."""
        return tuple(f"{PurePosixPath(self.images, place)}/" for place in self.places) + self.lists


def find_coop(name: str, root: Path) -> Findings:
    """Dataset `name`, of `LAYOUTS`, from its folder under `root`.

    ImageNet has an empty `val`; the four shifts have only `test`. What is wrong with its lists and images becomes
    the problems of the findings.

    Raises:
        InputError: the dataset is unknown, or a folder or a list of it is missing.
    """
    layout = _layout(name)
    folder = Path(os.path.expanduser(root)) / layout.folder
    absent = [path for path in layout.tree if not (folder / path).exists()]
    if absent:
        what = f"{folder} has no {', '.join(absent)}" if folder.is_dir() else f"there is no folder {folder}"
        tree = f"{layout.folder}/{{{', '.join(layout.tree)}}}"
        raise InputError(f"{name}: {what}; expected {tree} in {root}; see {WHERE_TO_GET}")
    findings = _inspect(name, layout.read(layout, folder))
    classes = len(findings.dataset.class_names)
    if classes != layout.classes:
        whole = "%s has %d of its %d classes here: its results are not those of the whole dataset"
        LOG.warning(whole, name, classes, layout.classes)
    return findings


@functools.cache
def imagenet_names() -> Mapping[str, str]:
    """{synset: name of the class}, sorted by synset: label i is the i-th.

    Source: openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb.
    """
    pairs = (line.partition(" ") for line in _lines(IMAGENET_NAMES))
    return {synset: name for synset, _, name in pairs}


def _layout(name: str) -> CoopLayout:
    if name not in LAYOUTS:
        raise InputError(f"there is no dataset {name!r}{did_you_mean(name, LAYOUTS)}")
    return LAYOUTS[name]


# ------------------------------------------------------------------------------------------------ readers


def _read_json(layout: CoopLayout, folder: Path) -> Listing:
    images = folder / layout.images
    listing = _parse(layout, _text(folder / layout.lists[0]), images, _categories(folder, layout.categories))
    return listing._replace(problems=listing.problems + _missing_images(images, listing))


def _categories(folder: Path, file: str) -> Mapping[int, str]:
    """{label: name} of cat_to_name.json, whose categories count from 1."""
    if not file or not (folder / file).exists():
        return {}
    text = _text(folder / file)
    try:
        return {int(category) - 1: str(name) for category, name in json.loads(text).items()}
    except (ValueError, AttributeError):
        raise InputError(f"{folder / file} is no JSON of category and name") from None


def _parse(layout: CoopLayout, text: str, images: Path, categories: Mapping[int, str]) -> Listing:
    """{"train": [[path, label, name], ...], "val": ..., "test": ...}."""
    try:
        content = json.loads(text)
        lists = {split: list(content[split]) for split in SPLITS}
    except (ValueError, TypeError, KeyError) as error:
        return Listing({}, {}, [f"{layout.lists[0]} is no JSON of train, val and test ({error!r})"])
    rows = {split: [row for row in entries if _is_row(row)] for split, entries in lists.items()}
    odd = {split: [row for row in entries if not _is_row(row)] for split, entries in lists.items()}
    problems = [f"{split} entries that are no [path, label, name]: {_listed(x)}" for split, x in odd.items() if x]
    names: dict[int, dict[str, None]] = {}  # a dict as an ordered set
    for _, label, name in itertools.chain(*rows.values()):
        names.setdefault(label, {})[categories.get(label) or layout.rename(name or "")] = None
    several = {label: [*given] for label, given in names.items() if len(given) > 1}
    problems += [f"label {label} has several names: {_listed(given)}" for label, given in several.items()]
    first = {label: next(iter(given)) for label, given in sorted(names.items())}
    splits = {split: _records(images, [row[:2] for row in entries]) for split, entries in rows.items()}
    return Listing(first, splits, problems + _same_names(first))


def _read_aircraft(layout: CoopLayout, folder: Path) -> Listing:
    """variants.txt, whose lines are the classes; in images_variant_*.txt lines of image and variant."""
    images = folder / layout.images
    variants, *lists = (_lines(folder / name) for name in layout.lists)
    names, labels = dict(enumerate(variants)), {variant: label for label, variant in enumerate(variants)}
    rows = {split: [line.partition(" ")[::2] for line in x] for split, x in zip(SPLITS, lists, strict=True)}
    known = {split: [(f"{i}.jpg", labels[v]) for i, v in x if v in labels] for split, x in rows.items()}
    listing = Listing(names, {split: _records(images, x) for split, x in known.items()}, [])
    problems = _same_names(names) + _missing_images(images, listing)
    if unknown := [f"{i} ({v})" for i, v in itertools.chain(*rows.values()) if v not in labels]:
        problems.append(f"images of a variant that {layout.lists[0]} does not name: {_listed(unknown)}")
    return listing._replace(problems=problems)


def _records(images: Path, rows: Iterable[Sequence[Any]]) -> list[Record]:
    return [Record(id, images / id, label) for id, label in rows]


def _read_imagenet(layout: CoopLayout, folder: Path) -> Listing:
    return _read_folders(folder / layout.images, {"train": "train", "test": "val"}, imagenet_names())


def _read_shift(layout: CoopLayout, folder: Path) -> Listing:
    return _read_folders(folder / layout.images, {"test": ""}, imagenet_names())


def _read_numbered_shift(layout: CoopLayout, folder: Path) -> Listing:
    names = {str(label): name for label, name in enumerate(imagenet_names().values())}
    return _read_folders(folder / layout.images, {"test": ""}, names)


def _read_folders(images: Path, places: Mapping[str, str], names: Mapping[str, str]) -> Listing:
    """A folder for every class; classes have the order of `names`, images that of their file names."""
    folders = {split: _class_folders(images / place) for split, place in places.items()}
    if flat := [str(images / places[split]) for split, there in folders.items() if not there]:
        advice = f"sort the images into folders of their classes, such as {next(iter(names))}/"
        return Listing({}, {}, [f"no class folders in {_listed(flat)}: {advice}"])
    there = set().union(*folders.values())
    classes = [folder for folder in names if folder in there]
    splits = {split: _list_images(images, place, classes) for split, place in places.items()}
    listing = Listing({label: names[folder] for label, folder in enumerate(classes)}, splits, [])
    problems = _without_images(listing, "test")
    if unknown := sorted(there - set(names)):
        problems.append(f"class folders without a name in {IMAGENET_NAMES.name}: {_listed(unknown)}")
    return listing._replace(problems=problems)


def _list_images(images: Path, place: str, classes: Sequence[str]) -> list[Record]:
    records = []
    for label, name in enumerate(classes):
        id, folder = str(PurePosixPath(place, name)), images / place / name
        files = sorted(file for file in _file_names(folder) if _is_image(file))
        records += [Record(f"{id}/{file}", folder / file, label) for file in files]
    return records


def _is_image(file: str) -> bool:
    return file.lower().endswith(SUFFIXES) and not file.startswith(".")


# ------------------------------------------------------------------------------------------------ class names

CALTECH = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


def _look_up(renames: Mapping[str, str]) -> Callable[[str], str]:
    return lambda name: renames.get(name, name)


def _year_first(name: str) -> str:
    """Audi S4 Sedan 2012 -> 2012 Audi S4 Sedan."""
    return re.sub(r"^(?!\d{4} )(.+) (\d{4})$", r"\2 \1", name)


def _reversed_path(name: str) -> str:
    """/a/apartment_building/outdoor -> outdoor apartment_building; the first part is a letter."""
    return " ".join(name.strip("/").split("/")[:0:-1]) if "/" in name else name


def _words(name: str) -> str:
    """ApplyEyeMakeup -> Apply_Eye_Makeup."""
    return re.sub(r"(?<=[^_ ])(?=[A-Z])", "_", name)


# ------------------------------------------------------------------------------------------------ checks


def _inspect(name: str, listing: Listing) -> Findings:
    _warn_of_repeats(name, listing)
    problems = listing.problems + _without_names(listing)
    problems += [f"its {split} split is empty" for split, records in listing.splits.items() if not records]
    if listing.splits.get("train"):
        problems += _without_images(listing, "train")
    labels = range(len(listing.names))
    if any(label not in listing.names for label in labels) or _without_names(listing):
        return Findings(Dataset(name, (), (), (), ()), tuple(map(Problem, problems)))  # no label can be named
    names = tuple(listing.names[label] for label in labels)
    dataset = Dataset(name, names, *(tuple(listing.splits.get(split, ())) for split in SPLITS))
    return Findings(dataset, tuple(map(Problem, problems)))


def _without_names(listing: Listing) -> list[str]:
    named = {label for label, name in listing.names.items() if name.strip()}
    highest = max((record.label for record in itertools.chain(*listing.splits.values())), default=-1)
    total = highest + 1 - sum(label <= highest for label in named)
    unnamed = (label for label in range(highest + 1) if label not in named)
    return [f"labels without a name: {_listed([*itertools.islice(unnamed, SHOWN)], total)}"] if total else []


def _warn_of_repeats(name: str, listing: Listing) -> None:
    """No error: published splits are taken as they are."""
    counts = collections.Counter(record.id for records in listing.splits.values() for record in records)
    if repeated := [id for id, number in counts.items() if number > 1]:
        LOG.warning("%s lists images more than once, perhaps in several splits: %s", name, _listed(repeated))


def _without_images(listing: Listing, split: str) -> list[str]:
    labels = {record.label for record in listing.splits[split]}
    missing = [name or f"label {label}" for label, name in listing.names.items() if label not in labels]
    return [f"classes without a {split} image: {_listed(missing)}"] if missing else []


def _same_names(names: Mapping[int, str]) -> list[str]:
    """Names that make the same prompt."""
    labels: dict[str, list[int]] = {}
    for label, name in names.items():
        labels.setdefault(name.replace("_", " ").casefold(), []).append(label)
    return [
        f"labels {_listed(same)} have one name: {names[same[0]]}"
        for name, same in labels.items()
        if len(same) > 1 and name.strip()
    ]


def _missing_images(images: Path, listing: Listing) -> list[str]:
    """One listing of each folder: a look at every image on its own is slow on a network's disks."""
    listings: dict[str, set[str]] = {}
    missing = []
    for record in itertools.chain(*listing.splits.values()):
        folder, _, file = record.id.rpartition("/")
        if folder not in listings:
            listings[folder] = _file_names(images / folder)
        if file not in listings[folder]:
            missing.append(record.id)
    return [f"images missing in {images}: {_listed(missing)}"] if missing else []


def _is_row(row: Any) -> bool:
    match row:
        case [str(path), int(label), str() | None]:
            return label >= 0 and not isinstance(label, bool) and not path.startswith("/")
    return False


def _listed(values: Sequence[Any], total: int | None = None) -> str:
    """The first few, and how many more."""
    more = (len(values) if total is None else total) - SHOWN
    return ", ".join(map(plain, values[:SHOWN])) + (f" and {more} more" if more > 0 else "")


# ------------------------------------------------------------------------------------------------ files


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _file_names(folder: Path) -> set[str]:
    return _scan(folder, lambda entry: True)


def _class_folders(folder: Path) -> set[str]:
    return _scan(
        folder, lambda entry: entry.is_dir() and not entry.name.startswith(".") and not is_system(entry.name)
    )


def _scan(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> set[str]:
    """Names of the entries that are wanted; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if wanted(entry)}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error})") from None


# ------------------------------------------------------------------------------------------------ the table

_AIRCRAFT = ("variants.txt", *(f"images_variant_{split}.txt" for split in SPLITS))
_V2 = "imagenetv2-matched-frequency-format-val"


def _json(classes: int, folder: str, images: str, split: str, **more: Any) -> CoopLayout:
    return CoopLayout(classes, folder, images, _read_json, (f"split_zhou_{split}.json",), **more)


LAYOUTS: Mapping[str, CoopLayout] = {
    "caltech101": _json(100, "caltech-101", "101_ObjectCategories", "Caltech101", rename=_look_up(CALTECH)),
    "oxford_pets": _json(37, "oxford_pets", "images", "OxfordPets", rename=str.lower),
    "stanford_cars": _json(
        196, "stanford_cars", "", "StanfordCars", places=("cars_train", "cars_test"), rename=_year_first
    ),
    "oxford_flowers": _json(102, "oxford_flowers", "jpg", "OxfordFlowers", categories="cat_to_name.json"),
    "food101": _json(101, "food-101", "images", "Food101"),
    "fgvc_aircraft": CoopLayout(100, "fgvc_aircraft", "images", _read_aircraft, _AIRCRAFT),
    "sun397": _json(397, "sun397", "SUN397", "SUN397", rename=_reversed_path),
    "dtd": _json(47, "dtd", "images", "DescribableTextures"),
    "eurosat": _json(10, "eurosat", "2750", "EuroSAT", rename=_look_up(EUROSAT)),
    "ucf101": _json(101, "ucf101", "UCF-101-midframes", "UCF101", rename=_words),
    "imagenet": CoopLayout(1000, "imagenet", "images", _read_imagenet, places=("train", "val")),
    "imagenetv2": CoopLayout(1000, "imagenetv2", _V2, _read_numbered_shift),
    "imagenet_sketch": CoopLayout(1000, "imagenet-sketch", "images", _read_shift),
    "imagenet_a": CoopLayout(200, "imagenet-adversarial", "imagenet-a", _read_shift),
    "imagenet_r": CoopLayout(200, "imagenet-rendition", "imagenet-r", _read_shift),
}
# ImageNet's shifts, and the ten datasets that the papers have beside ImageNet, in the order of the table.
SHIFTS = tuple(name for name, layout in LAYOUTS.items() if layout.read in (_read_shift, _read_numbered_shift))
OTHERS = tuple(name for name in LAYOUTS if name not in ("imagenet", *SHIFTS))
