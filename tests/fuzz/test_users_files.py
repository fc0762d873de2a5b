"""Tables, folders, settings and run folders as nobody meant them: one line that says so, or what is there."""

import io
import itertools
import json
import shutil
from pathlib import Path

import bounds
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from fuzzing import given, mutants
from hypothesis import strategies as st
from PIL import Image

from pini_jax import config as configs
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import folder, tables, tree
from pini_jax.report import collect
from pini_jax.runs import experiment, injector, population
from pini_jax.runs import folder as run_folders

MEMORY = 1 << 29
SPLITS = ("train", "val", "test")


def attempt(read, *arguments):
    """What is read, or None where it is refused in one line that can be printed."""
    with bounds.bounded(memory=MEMORY):
        try:
            return read(*arguments)
        except InputError as error:
            line = str(error)
    assert line.isprintable() and len(line) < 5000
    return None


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------ tables

ROWS = [
    {"path": f"{name}-{i}.png", "label": name, "split": split}
    for name, split, i in itertools.product(("ant", "bee"), ("train", "test"), range(3))
]
LINES = [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
TABLES = {".csv": "\n".join(LINES).encode(), ".jsonl": "\n".join(map(json.dumps, ROWS)).encode()}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    place = tmp_path_factory.mktemp("tables")
    for row in ROWS:
        (place / row["path"]).write_bytes(png())
    return place


@pytest.mark.parametrize("suffix", TABLES)
def test_a_damaged_table_lists_what_it_says_or_is_refused(images, suffix):
    @given(mutants(TABLES[suffix]))
    def check(content):
        file = images / f"table{suffix}"
        file.write_bytes(content)
        data = attempt(lambda: tables.find_table(file, seed=1).accepted())
        if data is None:
            return
        seen = [record.source for split in SPLITS for record in getattr(data, split)]
        assert len(set(seen)) == len(seen) and all(path.is_file() for path in seen)
        text = content.decode("utf-8-sig")
        for record in data.train + data.val + data.test:
            assert 0 <= record.label < len(data.class_names)
        told = text if suffix == ".csv" else " ".join(map(str, strings(text)))
        assert all(name in told for name in data.class_names)

    check()


def strings(text):
    """All values of JSON Lines."""
    for line in filter(str.strip, text.splitlines()):
        value = json.loads(line)
        yield from value.values() if isinstance(value, dict) else ()


# ------------------------------------------------------------------------------------------------ folders

LIKELY = [
    "train",
    "test",
    "val",
    "valid",
    "evaluation",
    "training",
    "images",
    "cat",
    "dog",
    "1",
    "2",
    "n01440764",
    "1.0",
    "a|b",
    "seg_train",
    "Train",
    "TEST",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "lost+found",
    "__MACOSX",
    ".hidden",
    ".Trashes",
    "é",
    "é",
    "ﬁ",
]
LETTERS = st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0")
NAMES = st.sampled_from(LIKELY) | st.text(LETTERS, min_size=1, max_size=6).filter(lambda x: x not in (".", ".."))
ENDINGS = ["png", "PNG", "jpg", "jfif", "avif", "heic", "eps", "txt"]
FILES = st.sampled_from([f"a.{ending}" for ending in ENDINGS] + ["Thumbs.db", ".i.png"])
PATHS = st.lists(st.tuples(st.lists(NAMES, max_size=4), FILES), min_size=1, max_size=12)


def check_tree(place, paths):
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    made = set()
    for parents, name in paths:
        try:
            place.joinpath(*parents).mkdir(parents=True, exist_ok=True)
            place.joinpath(*parents, name).write_bytes(png())
        except OSError:  # a file is where the folder should be
            continue
        made.add("/".join([*parents, name]))
    result = attempt(folder.find_folder, place, 1)
    if result is None:
        return
    data = result.dataset
    ids = [record.id for split in SPLITS for record in getattr(data, split)]
    assert len(ids) == len(set(ids)) and set(ids) <= made
    assert not [id for id in ids if any(map(tree.is_system, id.split("/"))) or "/." in f"/{id}"]
    assert all(str(problem).isprintable() for problem in result.problems + result.notes)
    if attempt(result.accepted):
        tops = {name.lower() for name in data.class_names}
        assert not {"train", "test"} <= tops, "two splits are read as classes"
        assert all(data.train) and all(0 <= record.label < len(data.class_names) for record in data.train)


def test_a_tree_is_read_as_it_is_or_refused(tmp_path):
    given(PATHS)(lambda paths: check_tree(tmp_path / "photos", paths))()


# ------------------------------------------------------------------------------------------------ settings

KEYS = st.sampled_from(["nothing", "population", *flatten_dict(configs.to_dict(configs.Config()), sep=".")])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["gda", "digits"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | KEYS, inner, max_size=3),
    max_leaves=6,
)
POPULATIONS = st.dictionaries(
    KEYS, st.lists(VALUES, max_size=2) | st.dictionaries(st.text(max_size=3), VALUES, max_size=2)
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_settings_resolve_or_are_refused(settings):
    config = attempt(configs.resolve, settings)
    if config is not None:
        assert configs.resolve(json.loads(json.dumps(configs.to_dict(config)))) == config


@given(st.lists(st.tuples(KEYS, st.text(max_size=12) | VALUES.map(repr)), max_size=4))
def test_arguments_of_a_config_are_taken_or_refused(pairs):
    argument = ",".join(f"{key}={value}" for key, value in pairs if key != "population")
    config = attempt(configs.with_arguments, configs.default(), argument)
    if config is not None:
        attempt(configs.resolve, config)


@given(
    st.dictionaries(KEYS, st.lists(VALUES, max_size=2) | st.dictionaries(st.text(max_size=3), VALUES, max_size=2))
)
def test_populations_are_made_or_refused(values):
    made = attempt(population.members, {"population": values})
    assert made is None or len({member.name for member in made}) <= len(made)


# ------------------------------------------------------------------------------------------------ run folders


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on features, with its config."""
    place = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    labels, text = np.arange(3).repeat(4), rng.standard_normal((3, 8))
    arrays = {f"{split}_x": text[labels] + rng.standard_normal((12, 8)) for split in ("train", "test")}
    arrays |= {"train_y": labels, "test_y": labels, "text": text, "classnames": np.array(["ant", "bee", "cow"])}
    np.savez(place / "pack.npz", **arrays)
    noise = {"text_features": {"generator": "table", "control": "learned"}}
    settings = dict(dataset=f"features:{place / 'pack.npz'}", clip="", views=1, shots=2, num_draws=2, noise=noise)
    config = configs.resolve(settings | {"optim": {"epochs": 2, "lr": 0.1}})
    experiment.train_and_evaluate(config, place / "run")
    return place / "run", config


READERS = {
    "result.json": lambda place, config: run_folders.read_sealed(place / "result.json"),
    "config.json": lambda place, config: run_folders.finished(config, place),
    "selection.json": lambda place, config: experiment.compare_data(config, place),
    "injector.safetensors": lambda place, config: flat(injector.load_injector(place / "injector.safetensors")),
}


def flat(exported):
    tensors = jax.tree.leaves(exported.variables)
    return [exported._replace(variables=None), [np.asarray(x).tobytes() for x in tensors]]


def told(value):
    return repr(value)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_of_a_run_is_refused_or_says_the_same(run, tmp_path, name):
    source, config = run
    expected = told(READERS[name](source, config))
    place = tmp_path / "run"
    shutil.copytree(source, place)
    content = (source / name).read_bytes()

    @given(mutants(content), share=2)
    def check(mutant):
        (place / name).write_bytes(mutant)
        value = attempt(READERS[name], place, config)
        if value is not None and not (
            name == "selection.json" and "changed" in value or "cannot be" in told(value)
        ):
            assert told(value) == expected
        attempt(collect.read_runs, [Path(place)])

    check()
