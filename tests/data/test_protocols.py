"""Base-to-new and transfer to other datasets, and a folder of images from files to a result."""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import test_coop
from PIL import Image
from tiny_clips import NOISE

from pini_jax import config
from pini_jax.data import selection as fewshot
from pini_jax.data.datasets import classes, coop, digits, records
from pini_jax.report import terminal as report
from pini_jax.runs import experiment

DATA = os.environ.get("PINI_DATA_DIR")
QUICK = {
    "clip": "tiny_clip",
    "shots": 1,
    "views": 1,
    "num_draws": 2,
    "noise": NOISE,
    "template": "x x a photo of the digit {}.",
    "optim": {"epochs": 2},
}


def folder(path, names=("three", "seven", "nine"), images=6):
    """Noise of a brightness that tells the class, as files."""
    rng = np.random.default_rng(0)
    for level, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for i in range(images):
            pixels = rng.integers(60 * level, 60 * level + 60, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i}.jpg")
    return path


@pytest.fixture(scope="module")
def base_to_new(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("base")
    other = folder(tmp_path_factory.mktemp("other") / "images")
    settings = config.resolve(QUICK | {"classes": "base", "transfer": (f"folder:{other}",)})
    return experiment.train_and_evaluate(settings, workdir), workdir, f"folder:{other}"


def test_base_classes_are_the_first_half(base_to_new):
    result, workdir, _ = base_to_new
    selected = fewshot.select(digits.load_digits(), shots=1, seed=1)
    base = classes.restrict(selected, range(5))
    assert (result["num_classes"], result["num_train"], result["num_test"]) == (5, 5, len(base.test))
    assert result["selection_sha256"] == records.list_hash(base.train + base.val)
    rows = json.loads((workdir / "selection.json").read_text())
    assert [row[0] for row in rows["train"]] == [record.id for record in base.train]
    assert {row[2] for row in rows["train"]} == set(digits.CLASS_NAMES[:5])


def test_new_classes_and_other_datasets_are_tested_by_the_same_noise(base_to_new):
    result, _, other = base_to_new
    new, transferred = result["unseen"]["new"], result["unseen"][other]
    assert new["num_test"] == sum(record.label >= 5 for record in digits.load_digits().test)
    assert transferred["num_classes"] == 3
    for task in (new, transferred):
        assert set(task["test"]) == {"mean", "sample", "marginal"}
        assert 0 <= task["zero_shot"]["accuracy"] <= 1


def test_the_harmonic_mean_is_that_of_base_and_new(base_to_new):
    result = base_to_new[0]
    a, b = (task["zero_shot"]["accuracy"] for task in (result, result["unseen"]["new"]))
    assert result["harmonic_mean"]["zero_shot"] == pytest.approx(2 * a * b / (a + b))
    a, b = (task["test"]["mean"]["accuracy"] for task in (result, result["unseen"]["new"]))
    assert result["harmonic_mean"]["mean"] == pytest.approx(2 * a * b / (a + b))


def test_the_table_shows_what_was_not_trained(base_to_new):
    table = report.table(base_to_new[0], num_draws=2)
    assert "new (5 classes)" in table and "harmonic mean" in table


@pytest.mark.long
def test_a_folder_of_images_from_files_to_a_result(tmp_path):
    """The split that was cut is written beside the result; templates may be an ensemble."""
    dataset = f"folder:{folder(tmp_path / 'images')}"
    settings = config.resolve(QUICK | {"dataset": dataset, "zero_shot_template": "imagenet_7"})
    result = experiment.train_and_evaluate(settings, tmp_path / "run")
    assert (result["dataset"], result["num_classes"], result["num_train"]) == (dataset, 3, 3)
    rows = json.loads((tmp_path / "run" / "split.json").read_text())
    assert sorted(row[0] for split in rows.values() for row in split) == sorted(
        f"{name}/{i}.jpg" for name in ("three", "seven", "nine") for i in range(6)
    )


@pytest.mark.long
@pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR is not set")
def test_real_photographs(tmp_path):
    dataset = f"folder:{Path(DATA, 'images', 'cifar10')}"
    result = experiment.train_and_evaluate(config.resolve(QUICK | {"dataset": dataset}), tmp_path / "run")
    assert (result["num_classes"], result["num_train"], result["num_test"]) == (10, 10, 500)


def config_of(name, **arguments):
    """What a file of configs/ makes of its arguments, as the command line reads them."""
    module = importlib.import_module(f"configs.{name}")
    return module.get_config(",".join(f"{key}={value}" for key, value in arguments.items()))


@pytest.mark.long
def test_domain_generalisation_on_miniatures(tmp_path):
    """ImageNet and its shifts in miniatures of their layouts, by the protocol's own config."""
    settings = config_of("domain", data_dir=tmp_path / "data", clip="tiny_clip")
    for dataset in (settings.dataset, *settings.transfer):
        test_coop.make(dataset, tmp_path / "data")
    settings.update(QUICK | {"template": "x a {}."})
    result = experiment.train_and_evaluate(config.resolve(settings), tmp_path / "run")
    assert result["dataset"] == "imagenet"
    assert set(result["unseen"]) == {"imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"}
    assert all(task["num_test"] > 0 for task in result["unseen"].values())


def test_the_other_protocols_are_what_they_say():
    cross = config.resolve(config_of("cross_dataset", data_dir="data", clip="tiny_clip"))
    assert cross.dataset == "imagenet"
    assert sorted(cross.transfer) == sorted(set(coop.LAYOUTS) - {x for x in coop.LAYOUTS if "imagenet" in x})
    base = config.resolve(config_of("base_to_new", dataset="dtd", data_dir="data", clip="tiny_clip"))
    assert (base.dataset, base.classes, base.transfer) == ("dtd", "base", ())
