"""Finished runs, as they are collected."""

import json

import pytest

from pini_jax.core.errors import InputError
from pini_jax.report import collect as collection
from pini_jax.runs.folder import write_result


def metrics(accuracy):
    return {"accuracy": accuracy, "macro_f1": accuracy, "nll": 1.0, "ece": 0.1}


def result(shots, seed, accuracy, marginal=None, method="pini"):
    bins = {"size": [1, 3], "confidence": [0.4, 2.4], "correct": [0, 3]}
    modes = ("zero_shot", "mean", "sample", "marginal")
    return {
        "method": method,
        "clip": "",
        "dataset": "digits",
        "shots": shots,
        "seed": seed,
        "zero_shot": metrics(0.5),
        "test": {mode: metrics(accuracy) for mode in modes[1:3]} | {"marginal": metrics(marginal or accuracy)},
        "information": {"usable_information": accuracy - 0.5, "mutual_information": accuracy - 0.75},
        "draws": {"averaged": {"nats": accuracy - 0.6}, "calibrated": {"nats": 0.0}},
        "reliability": dict.fromkeys(modes, bins),
    }


def write(folder, found, **config):
    folder.mkdir(parents=True)
    write_result(folder, found)
    settings = {key: found[key] for key in ("method", "shots", "seed")} | {"optim": {"lr": 1.0}}
    (folder / "config.json").write_text(json.dumps(settings | config))


@pytest.fixture
def runs(tmp_path):
    """A population of two named variants and two learning rates, by shots and seeds."""
    members = {}
    for variant, gain in (("second", 0.2), ("first", 0.1)):
        for lr in (0.1, 0.2):
            for shots, seed in ((1, 1), (1, 2), (16, 1)):
                name = f"{variant}-{lr}-{shots}-{seed}"
                members[name] = {"variant": variant, "optim.lr": lr, "shots": shots, "seed": seed}
                accuracy = 0.5 + gain + 0.01 * seed + 0.1 * (shots == 16)
                write(tmp_path / "runs" / name, result(shots, seed, accuracy, accuracy + 0.05))
    (tmp_path / "runs" / "population.json").write_text(json.dumps(members))
    return tmp_path / "runs"


def test_runs_are_named_by_what_differs_in_the_order_of_the_population(runs):
    groups = collection.by_label(collection.read_runs([runs]))
    labels = ["second, optim.lr=0.1", "second, optim.lr=0.2", "first, optim.lr=0.1", "first, optim.lr=0.2"]
    assert list(groups) == labels
    by_shots = collection.by_shots(groups["first, optim.lr=0.1"], "test", "mean", "accuracy")
    assert by_shots == {1: pytest.approx([0.61, 0.62]), 16: pytest.approx([0.71])}


def test_a_run_alone_is_named_by_its_method_and_folders_are_told_apart(tmp_path):
    write(tmp_path / "a", result(1, 1, 0.6, method="gda"))
    write(tmp_path / "b", result(1, 1, 0.7))
    assert [entry.label for entry in collection.read_runs([tmp_path / "a"])] == ["gda"]
    both = collection.read_runs([tmp_path / "a", tmp_path / "b"])
    assert [entry.label for entry in both] == ["a: gda", "b: pini"]


def test_folders_within_each_other_give_their_runs_once(runs):
    collected = collection.collect([runs.parent, runs, runs.parent / "runs" / ".." / "runs"])
    assert len(collected.entries) == 12 and not collected.left_out
    (runs / "comparison.json").write_text(json.dumps({"first-0.1-1-1": {"contender": "noise"}}))
    collected = collection.collect([runs.parent, runs])
    assert len(collected.entries) == 12 and not collected.left_out


def test_of_a_comparison_only_the_chosen_count(runs):
    chosen = {"first-0.1-1-1": {"contender": "noise"}, "second-0.2-16-1": {"contender": "rival"}}
    (runs / "comparison.json").write_text(json.dumps(chosen))
    assert [(x.folder.name, x.label) for x in collection.read_runs([runs])] == [
        ("first-0.1-1-1", "noise"),
        ("second-0.2-16-1", "rival"),
    ]


def test_what_cannot_be_collected_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        collection.read_runs([tmp_path])
    write(tmp_path / "old", result(1, 1, 0.5))
    (tmp_path / "old" / "result.json").write_text(json.dumps(result(1, 1, 0.5)))
    with pytest.raises(InputError, match="earlier version"):
        collection.read_runs([tmp_path])
    (tmp_path / "old" / "result.json").write_text("{")
    with pytest.raises(InputError, match="no valid JSON"):
        collection.read_runs([tmp_path])


def test_nothing_is_pooled_but_seeds(tmp_path):
    """Neither datasets, nor weights, nor settings; and a run that lies in two folders counts once."""
    base = result(1, 1, 0.6, method="gda")
    for i, (seed, own) in enumerate(
        [(1, {"dataset": "a"}), (2, {"dataset": "a"}), (1, {"dataset": "b"}), (1, {"dataset": "a", "views": 8})]
    ):
        write(tmp_path / str(i), base | {"seed": seed}, **own)
    write(tmp_path / "4", base | {"clip_sha256": "ab" * 32}, dataset="a")
    write(tmp_path / "5", base, dataset="a")  # once more the first
    collected = collection.collect([tmp_path])
    places = collection.by_place(collected.entries)
    assert {
        title: [(label, len(group)) for label, group in collection.by_label(x).items()]
        for title, x in places.items()
    } == {
        "a on given features ()": [("gda, views=None", 2), ("gda, views=8", 1)],
        "b on given features ()": [("gda", 1)],
        "a on given features (abababab)": [("gda", 1)],
    }
    assert collected.left_out == {tmp_path / "5": f"the run of {tmp_path / '0'} once more"}


def test_places_have_short_titles_where_these_tell_them_apart(tmp_path):
    for name in ("dtd", "cars"):
        write(tmp_path / name, result(1, 1, 0.6), dataset=f"features:/data/{name}.npz")
    titles = ["cars on given features", "dtd on given features"]
    assert list(collection.by_place(collection.read_runs([tmp_path]))) == titles


def test_runs_that_were_not_chosen_are_named(runs):
    (runs / "comparison.json").write_text(json.dumps({"first-0.1-1-1": {"contender": "noise"}}))
    left_out = collection.collect([runs]).left_out
    assert len(left_out) == 11 and set(left_out.values()) == {"not chosen by validation"}


def test_a_run_without_test_images_does_not_count(runs):
    """As of `Classifier.fit`, which is given images for training alone."""
    write(runs / "of a program", result(1, 1, 0.9) | {"zero_shot": None, "test": None})
    collected = collection.collect([runs])
    assert collected.left_out == {runs / "of a program": "no test images"}
    assert len(collected.entries) == 12
