"""The datasets in CoOp's folders: miniatures of all fifteen, the recorded splits, and whatever can be wrong."""

import io
import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from split_files import find_split

from pini_jax.core.errors import InputError
from pini_jax.data import selection as fewshot
from pini_jax.data.datasets import classes, coop
from pini_jax.data.datasets.records import open_image

DATA = os.environ.get("PINI_DATA_DIR")
CASES = sorted(Path(DATA, "indices").glob("*/*.json")) if DATA else []
needs_data = pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR is not set")

# ------------------------------------------------------------------------------------------------ miniatures

# Dataset: folder, folder of images, split, [(folder of a class or start of its images, name in the split, name)].
JSON = {
    "caltech101": (
        *("caltech-101", "101_ObjectCategories", "Caltech101"),
        [("Faces/", "Faces", "face"), ("Leopards/", "leopard", "leopard"), ("yin_yang/", "yin_yang", "yin_yang")],
    ),
    "oxford_pets": (
        *("oxford_pets", "images", "OxfordPets"),
        [("Abyssinian_", "Abyssinian", "abyssinian"), ("basset_hound_", "basset_hound", "basset_hound")],
    ),
    "stanford_cars": (
        *("stanford_cars", "", "StanfordCars"),
        [
            ("cars_train/1", "AM General Hummer SUV 2000", "2000 AM General Hummer SUV"),
            ("cars_test/2", "2012 FIAT 500 Abarth", "2012 FIAT 500 Abarth"),
        ],
    ),
    "oxford_flowers": (
        *("oxford_flowers", "jpg", "OxfordFlowers"),
        [("image_1", "1", "pink primrose"), ("image_2", "sweet pea", "sweet pea")],
    ),
    "food101": (
        *("food-101", "images", "Food101"),
        [("apple_pie/", "apple_pie", "apple_pie"), ("waffles/", "waffles", "waffles")],
    ),
    "sun397": (
        *("sun397", "SUN397", "SUN397"),
        [
            ("a/abbey/", "/a/abbey", "abbey"),
            ("a/apartment_building/outdoor/", "a/apartment_building/outdoor", "outdoor apartment_building"),
            ("a/apse/indoor/", "indoor apse", "indoor apse"),
        ],
    ),
    "dtd": (
        *("dtd", "images", "DescribableTextures"),
        [("banded/banded_", "banded", "banded"), ("zigzagged/zigzagged_", "zigzagged", "zigzagged")],
    ),
    "eurosat": (
        *("eurosat", "2750", "EuroSAT"),
        [
            ("AnnualCrop/AnnualCrop_", "AnnualCrop", "Annual Crop Land"),
            ("SeaLake/SeaLake_", "Sea or Lake", "Sea or Lake"),
        ],
    ),
    "ucf101": (
        *("ucf101", "UCF-101-midframes", "UCF101"),
        [
            ("Apply_Eye_Makeup/v_", "ApplyEyeMakeup", "Apply_Eye_Makeup"),
            ("Archery/v_", "Archery", "Archery"),
            ("Yo_Yo/v_", "Yo_Yo", "Yo_Yo"),
        ],
    ),
}
SHIFTS = {
    "imagenetv2": ("imagenetv2/imagenetv2-matched-frequency-format-val", ("0", "2", "10"), ".jpeg"),
    "imagenet_sketch": ("imagenet-sketch/images", ("n01440764", "n01484850", "n01530575"), ".JPEG"),
    "imagenet_a": ("imagenet-adversarial/imagenet-a", ("n01440764", "n01484850", "n01530575"), ".jpg"),
    "imagenet_r": ("imagenet-rendition/imagenet-r", ("n01440764", "n01484850", "n01530575"), ".jpg"),
}
THREE = ("tench", "great white shark", "brambling")  # classes 0, 2 and 10 of ImageNet
SPLITS = ("train", "val", "test")


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


PIXELS = jpeg()


def put(path, content=PIXELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def make_json(name, root):
    """Two training images of every class, and one for validation and test; in an order that nothing sorts."""
    folder, images, split, kinds = JSON[name]
    rows = {
        s: [[f"{start}{s}_{i}.jpg", label, raw] for i in numbers for label, (start, raw, _) in enumerate(kinds)]
        for s, numbers in zip(SPLITS, ((7, 3), (5,), (1,)), strict=True)
    }
    for path, *_ in rows["train"] + rows["val"] + rows["test"]:
        put(root / folder / images / path)
    put(root / folder / f"split_zhou_{split}.json", json.dumps(rows))
    if name == "oxford_flowers":
        put(root / folder / "cat_to_name.json", json.dumps({"2": "sweet pea", "1": "pink primrose"}))
    if name == "stanford_cars":
        for place in ("cars_train", "cars_test"):
            (root / folder / place).mkdir(exist_ok=True)
    return {s: [path for path, *_ in rows[s]] for s in SPLITS}, tuple(named for *_, named in kinds)


def make_aircraft(_, root):
    folder = root / "fgvc_aircraft"
    put(folder / "variants.txt", "707-320\nBoeing 717\nF/A-18\n")
    lists = {"train": "0034309 Boeing 717\n1025794 707-320\n0000003 F/A-18\n"}
    lists |= {"val": "0000004 F/A-18\n0000005 707-320\n", "test": "0000006 F/A-18\n"}
    for split, lines in lists.items():
        put(folder / f"images_variant_{split}.txt", lines)
        for line in lines.splitlines():
            put(folder / "images" / f"{line.split()[0]}.jpg")
    ids = {split: [f"{line.split()[0]}.jpg" for line in lines.splitlines()] for split, lines in lists.items()}
    return ids, ("707-320", "Boeing 717", "F/A-18")


def make_imagenet(_, root):
    """Files are made in an order that is not theirs, beside what is no image."""
    images, synsets = root / "imagenet" / "images", ("n01484850", "n01440764", "n01530575")
    for synset in synsets:
        for number in (9, 10, 1):
            put(images / "train" / synset / f"{synset}_{number}.JPEG")
        put(images / "val" / synset / "ILSVRC2012_val_00000001.JPEG")
        put(images / "train" / synset / ".DS_Store", "")
        put(images / "train" / synset / "notes.txt", "")
    put(root / "imagenet" / "classnames.txt", "n01440764 not this name\n")
    train = [f"train/{synset}/{synset}_{n}.JPEG" for synset in sorted(synsets) for n in ("1", "10", "9")]
    test = [f"val/{synset}/ILSVRC2012_val_00000001.JPEG" for synset in sorted(synsets)]
    return {"train": train, "val": [], "test": test}, THREE


def make_shift(name, root):
    folder, keys, suffix = SHIFTS[name]
    for key in reversed(keys):
        for file in ("b", "a"):
            put(root / folder / key / f"{file}{suffix}")
    put(root / folder / "README.txt", "to be ignored")
    return {"train": [], "val": [], "test": [f"{key}/{file}{suffix}" for key in keys for file in "ab"]}, THREE


MAKERS = {
    **dict.fromkeys(JSON, make_json),
    "fgvc_aircraft": make_aircraft,
    "imagenet": make_imagenet,
    **dict.fromkeys(SHIFTS, make_shift),
}


def make(name, root):
    """Writes a miniature; returns its ids by split, in order, and the papers' class names."""
    return MAKERS[name](name, root)


def test_there_are_fifteen_datasets():
    assert set(MAKERS) == set(coop.LAYOUTS) and len(MAKERS) == 15


@pytest.mark.parametrize("name", MAKERS)
def test_a_miniature_is_read(name, tmp_path):
    ids, names = make(name, tmp_path)
    dataset = coop.find_coop(name, tmp_path).accepted()
    assert (dataset.name, dataset.class_names) == (name, names)
    assert {split: [r.id for r in getattr(dataset, split)] for split in SPLITS} == ids
    assert {r.label for r in dataset.test} <= set(range(len(names)))
    for record in dataset.train + dataset.val + dataset.test:
        assert record.source.as_posix().endswith("/" + record.id)
        assert open_image(record).size == (4, 4)


@pytest.mark.parametrize("name", [*JSON, "imagenet"])
def test_labels_follow_the_split(name, tmp_path):
    make(name, tmp_path)
    dataset = coop.find_coop(name, tmp_path).accepted()
    n = len(dataset.class_names)
    expected = list(range(n)) * 2 if name in JSON else [label for label in range(n) for _ in range(3)]
    assert [r.label for r in dataset.train] == expected
    assert [r.label for r in dataset.test] == list(range(n))


def test_aircraft_have_the_order_of_their_variants(tmp_path):
    make("fgvc_aircraft", tmp_path)
    assert [r.label for r in coop.find_coop("fgvc_aircraft", tmp_path).accepted().train] == [1, 0, 2]


def test_numbered_folders_are_sorted_by_number(tmp_path):
    make("imagenetv2", tmp_path)
    assert [r.label for r in coop.find_coop("imagenetv2", tmp_path).accepted().test] == [0, 0, 1, 1, 2, 2]


def test_flowers_need_no_file_of_categories_where_the_split_has_the_names(tmp_path):
    make("oxford_flowers", tmp_path)
    (tmp_path / "oxford_flowers" / "cat_to_name.json").unlink()
    assert coop.find_coop("oxford_flowers", tmp_path).accepted().class_names == ("1", "sweet pea")


def test_what_is_incomplete_is_said(tmp_path, caplog):
    make("imagenet_r", tmp_path)
    coop.find_coop("imagenet_r", tmp_path).accepted()
    assert "imagenet_r has 3 of its 200 classes here" in caplog.text


@pytest.mark.parametrize("name", coop.LAYOUTS)
def test_renaming_twice_is_renaming_once(name):
    rename = coop.LAYOUTS[name].rename
    for _, raw, named in JSON.get(name, [[]])[-1]:
        assert rename(named) == named
        assert rename(raw) == named or name == "oxford_flowers"


def test_the_ten_names_of_eurosat():
    folders = (
        "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"
    )
    assert [coop.LAYOUTS["eurosat"].rename(folder) for folder in folders.split()] == [
        *("Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road", "Industrial Buildings"),
        *("Pasture Land", "Permanent Crop Land", "Residential Buildings", "River", "Sea or Lake"),
    ]


# ------------------------------------------------------------------------------------------------ ImageNet's names


def test_imagenet_has_a_name_for_every_synset():
    names = coop.imagenet_names()
    assert len(names) == 1000 and list(names) == sorted(names)
    assert all(re.fullmatch(r"n\d{8}", synset) for synset in names)


def test_only_openais_two_pairs_share_a_name():
    names = coop.imagenet_names()
    shared = {synset: name for synset, name in names.items() if list(names.values()).count(name) > 1}
    assert shared == {
        **{"n03773504": "missile", "n04008634": "missile"},
        **{"n04355933": "sunglasses", "n04356056": "sunglasses"},
    }


@pytest.mark.parametrize(
    ("label", "synset", "name"),
    [
        (0, "n01440764", "tench"),
        (6, "n01498041", "stingray"),
        (21, "n01608432", "kite (bird of prey)"),
        (134, "n02012849", "crane bird"),
        (151, "n02085620", "Chihuahua"),
        (268, "n02113978", "Mexican hairless dog (xoloitzcuintli)"),
        (281, "n02123045", "tabby cat"),
        (292, "n02129604", "tiger"),
        (355, "n02437616", "llama"),
        (388, "n02510455", "giant panda"),
        (407, "n02701002", "ambulance"),
        (474, "n02963159", "cardigan"),
        (517, "n03126707", "construction crane"),
        (605, "n03584254", "iPod"),
        (638, "n03710637", "tights"),
        (677, "n03804744", "metal nail"),
        (701, "n03888257", "parachute"),
        (751, "n04037443", "race car"),
        (817, "n04285008", "sports car"),
        (889, "n04536866", "violin"),
        (914, "n04612504", "sailboat"),
        (954, "n07753592", "banana"),
        (963, "n07873807", "pizza"),
        (980, "n09472597", "volcano"),
        (999, "n15075141", "toilet paper"),
    ],
)
def test_names_are_those_of_the_synsets(label, synset, name):
    """Synsets of WordNet and their places among the thousand, against OpenAI's names."""
    assert list(coop.imagenet_names().items())[label] == (synset, name)


# ------------------------------------------------------------------------------------------------ recordings

# Name of the split, then sizes of train, val and test, classes, base classes.
RECORDED = {
    "dtd": ("DescribableTextures", (2820, 1128, 1692), 47, 24),
    "eurosat": ("EuroSAT", (13500, 5400, 8100), 10, 5),
    "oxford_pets": ("OxfordPets", (2944, 736, 3669), 37, 19),
}
FEW_NAMES = {
    "dtd": {0: "banded", 5: "chequered", 30: "polka-dotted", 46: "zigzagged"},
    "eurosat": dict(enumerate(coop.EUROSAT.values())),
    "oxford_pets": {0: "abyssinian", 2: "american_pit_bull_terrier", 36: "yorkshire_terrier"},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    files = {name: Path(DATA, "splits", f"split_zhou_{split}.json") for name, (split, *_) in RECORDED.items()}
    return {name: find_split(name, file.read_text(), root).dataset for name, file in files.items()}


@needs_data
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_splits(name, recorded):
    dataset, (_, sizes, num_classes, num_base) = recorded[name], RECORDED[name]
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == sizes
    assert len(dataset.class_names) == num_classes == coop.LAYOUTS[name].classes
    assert FEW_NAMES[name].items() <= dict(enumerate(dataset.class_names)).items()
    base, new = (classes.restrict(dataset, labels) for labels in classes.split_classes(num_classes))
    assert (len(base.class_names), len(new.class_names)) == (num_base, num_classes - num_base)
    assert base.class_names + new.class_names == dataset.class_names
    assert len(base.test) + len(new.test) == sizes[2]


@needs_data
@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_selections_are_the_recorded_ones(path, recorded):
    """Every image and its class name, in order, of training and validation."""
    dataset, content = recorded[path.parent.name], json.loads(path.read_text())
    shots, seed = map(int, re.fullmatch(r"shot_(\d+)-seed_(\d+)", path.stem).groups())
    selected = fewshot.select(dataset, shots, seed)
    for split in ("train", "val"):
        ours, theirs = getattr(selected, split), content[split]["data"]
        assert [r.label for r in ours] == [row["label"] for row in theirs]
        assert [dataset.class_names[r.label] for r in ours] == [row["classname"] for row in theirs]
        folder = f"{coop.LAYOUTS[dataset.name].folder}/{coop.LAYOUTS[dataset.name].images}"
        assert [f"./data/{folder}/{r.id}" for r in ours] == [row["impath"] for row in theirs]


# ------------------------------------------------------------------------------------------------ bad input


@pytest.fixture
def pets(tmp_path):
    """A miniature of OxfordPets, and what rewrites its split."""
    make("oxford_pets", tmp_path)
    path = tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json"

    def rewrite(change):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return rewrite


def message(name, root):
    """The one line that `load` refuses with."""
    with pytest.raises(InputError) as error:
        coop.find_coop(name, root).accepted()
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_unknown_dataset_is_refused(tmp_path):
    assert message("oxford_pet", tmp_path) == "there is no dataset 'oxford_pet'; did you mean 'oxford_pets'?"


@pytest.mark.parametrize("name", coop.LAYOUTS)
def test_a_missing_folder_shows_the_tree(name, tmp_path):
    text = message(name, tmp_path)
    layout = coop.LAYOUTS[name]
    assert f"{name}: there is no folder {tmp_path / layout.folder}; expected {layout.folder}/{{" in text
    assert all(path in text for path in layout.tree) and "CoOp/blob/main/DATASETS.md" in text


@pytest.mark.parametrize("name", coop.LAYOUTS)
def test_all_that_is_missing_in_a_folder_is_named(name, tmp_path):
    layout = coop.LAYOUTS[name]
    (tmp_path / layout.folder).mkdir()
    assert f"{tmp_path / layout.folder} has no {', '.join(layout.tree)}; expected" in message(name, tmp_path)


def test_the_tree_is_that_of_datasets_md():
    assert coop.LAYOUTS["stanford_cars"].tree == ("cars_train/", "cars_test/", "split_zhou_StanfordCars.json")
    assert coop.LAYOUTS["imagenet"].tree == ("images/train/", "images/val/")
    assert coop.LAYOUTS["imagenet_a"].tree == ("imagenet-a/",)


@pytest.mark.parametrize("name", [*JSON, "fgvc_aircraft"])
def test_missing_images_are_named(name, tmp_path):
    ids, _ = make(name, tmp_path)
    layout = coop.LAYOUTS[name]
    images = tmp_path / layout.folder / layout.images
    (images / ids["train"][0]).unlink()
    (images / ids["test"][-1]).unlink()
    text = message(name, tmp_path)
    assert text == f"{name}: images missing in {images}: {ids['train'][0]}, {ids['test'][-1]}"


def test_many_missing_images_are_counted(tmp_path):
    make("sun397", tmp_path)
    shutil.rmtree(tmp_path / "sun397" / "SUN397" / "a")
    assert message("sun397", tmp_path).endswith(
        "abbey/train_3.jpg, a/apartment_building/outdoor/train_3.jpg and 7 more"
    )


def nameless(split):
    split["train"][1][2] = split["train"][3][2] = split["val"][1][2] = split["test"][1][2] = None


def gap(split):
    for row in split["train"] + split["val"] + split["test"]:
        row[1] *= 3


def far(split):
    split["test"].append(["basset_hound_test_1.jpg", 4_000_000_000, "whale"])


def untrained(split):
    split["train"] = [row for row in split["train"] if row[1] == 0]


def same_name(split):
    for row in split["train"] + split["val"] + split["test"]:
        row[2] = "Basset Hound" if row[1] else "basset_hound"


def two_names(split):
    split["val"][0][2] = "cat"


def empty(split):
    split["val"] = []


def odd(split):
    split["test"] += [
        ["Abyssinian_test_1.jpg", 0],
        ["Abyssinian_test_1.jpg", -1, "cat"],
        "x",
        ["/a.jpg", 0, "cat"],
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (nameless, "labels without a name: 1"),
        (gap, "labels without a name: 1, 2"),
        (far, "labels without a name: 2, 3, 4, 5, 6 and 3999999993 more; classes without a train image: whale"),
        (untrained, "classes without a train image: basset_hound"),
        (same_name, "labels 0, 1 have one name: basset_hound"),
        (two_names, "label 0 has several names: abyssinian, cat"),
        (empty, "its val split is empty"),
        (odd, "test entries that are no [path, label, name]: ['Abyssinian_test_1.jpg', 0], "),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_wrong_in_a_split_is_named(change, expected, pets, tmp_path):
    pets(change)
    assert message("oxford_pets", tmp_path).startswith(f"oxford_pets: {expected}")


def test_all_problems_are_named_at_once(pets, tmp_path):
    for change in (untrained, empty, two_names_in_test, nameless_in_test):
        pets(change)
    (tmp_path / "oxford_pets" / "images" / "Abyssinian_train_7.jpg").unlink()
    assert message("oxford_pets", tmp_path).removeprefix("oxford_pets: ").split("; ") == [
        "label 0 has several names: abyssinian, cat",
        f"images missing in {tmp_path / 'oxford_pets' / 'images'}: Abyssinian_train_7.jpg",
        "labels without a name: 1",
        "its val split is empty",
        "classes without a train image: label 1",
    ]


def two_names_in_test(split):
    split["test"][0][2] = "cat"


def nameless_in_test(split):
    split["test"][1][2] = ""


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"train": [], "val": []}', '{"train": 1, "val": 2, "test": 3}'])
def test_what_is_no_split_is_refused(text, tmp_path):
    with pytest.raises(
        InputError, match="^dtd: split_zhou_DescribableTextures.json is no JSON of train, val and test"
    ):
        find_split("dtd", text, tmp_path).accepted()


def test_damaged_files_are_refused(tmp_path):
    for name, file in (("oxford_flowers", "cat_to_name.json"), ("dtd", "split_zhou_DescribableTextures.json")):
        make(name, tmp_path)
        put(tmp_path / coop.LAYOUTS[name].folder / file, b"\xff\xfe{}")
        assert f"{file} cannot be read" in message(name, tmp_path)
    put(tmp_path / "oxford_flowers" / "cat_to_name.json", "[]")
    assert "cat_to_name.json is no JSON of category and name" in message("oxford_flowers", tmp_path)


def test_variants_that_are_not_listed_are_named(tmp_path):
    make("fgvc_aircraft", tmp_path)
    put(tmp_path / "fgvc_aircraft" / "variants.txt", "707-320\n707-320\nF/A-18\n")
    text = message("fgvc_aircraft", tmp_path)
    assert "labels 0, 1 have one name: 707-320" in text
    assert "images of a variant that variants.txt does not name: 0034309 (Boeing 717)" in text


def test_folders_of_systems_are_no_classes(tmp_path):
    make("imagenet", tmp_path)
    whole = coop.find_coop("imagenet", tmp_path).accepted()
    for name in ("lost+found", "@eaDir"):
        put(tmp_path / "imagenet" / "images" / "train" / name / "x.JPEG")
    assert coop.find_coop("imagenet", tmp_path).accepted() == whole


def test_class_folders_without_images_are_named(tmp_path):
    make("imagenet", tmp_path)
    images = tmp_path / "imagenet" / "images"
    shutil.rmtree(images / "val" / "n01440764")
    shutil.rmtree(images / "train" / "n01484850")
    put(images / "train" / "n99999999" / "a.JPEG")
    assert message("imagenet", tmp_path).removeprefix("imagenet: ").split("; ") == [
        "classes without a test image: tench",
        "class folders without a name in imagenet_classnames.txt: n99999999",
        "classes without a train image: great white shark",
    ]


def test_validation_images_in_one_heap_are_refused_with_advice(tmp_path):
    make("imagenet", tmp_path)
    val = tmp_path / "imagenet" / "images" / "val"
    shutil.rmtree(val)
    put(val / "ILSVRC2012_val_00000001.JPEG")
    text = message("imagenet", tmp_path)
    assert text.endswith(
        f"no class folders in {val}: sort the images into folders of their classes, such as n01440764/"
    )


def test_a_whole_dataset_is_no_warning(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    names = coop.EUROSAT.values()
    rows = {split: [[f"{label}{split}.jpg", label, name] for label, name in enumerate(names)] for split in SPLITS}
    for path, *_ in rows["train"] + rows["val"] + rows["test"]:
        put(tmp_path / "eurosat" / "2750" / path)
    put(tmp_path / "eurosat" / "split_zhou_EuroSAT.json", json.dumps(rows))
    assert coop.find_coop("eurosat", tmp_path).accepted().class_names == tuple(names)
    assert not caplog.records
