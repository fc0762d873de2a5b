"""What commands print of results."""

from pathlib import Path

import pytest

from pini_jax.report import terminal
from pini_jax.report.collect import Entry


def result(shots, seed, accuracy, method="pini"):
    values = {"accuracy": accuracy, "macro_f1": accuracy, "nll": 1.25, "ece": 0.0625}
    return {
        "method": method,
        "dataset": "digits",
        "clip": "tiny_clip",
        "shots": shots,
        "seed": seed,
        "num_test": 1005,
        "num_classes": 10,
        "steps": 1000,
        "steps_per_second": 312.4,
        "trainable_parameters": 23488,
        "checkpoint_bytes": 187_908,
        "zero_shot": values | {"accuracy": 0.5},
        "test": {"mean": values, "sample": values, "marginal": values | {"accuracy": 0.75}},
        "seconds": {"setup": 1.0, "train": 2.0},
        "information": {
            "usable_information": 0.375,
            "mutual_information": -0.125,
            "standard_error": 0.01,
        },
    }


def test_table_holds_every_number():
    table = terminal.table(result(16, 1, 0.7), num_draws=32)
    for text in (
        "50.0%",
        "70.0%",
        "75.0%",
        "1.250",
        "0.062",
        "23,488",
        "0.19 MB",
        "one sample",
        "32 samples",
        "train 2.0",
        "0.375 nats (+- 0.010) less surprised",
    ):
        assert text in table


def test_a_rival_has_one_row():
    rows = [
        line.split()[0] for line in terminal.table(result(16, 1, 0.7, "task_res"), num_draws=32).splitlines()[3:5]
    ]
    assert rows == ["zero-shot", "task_res"]
    assert "PiNI" not in terminal.table(result(16, 1, 0.7, "task_res"), num_draws=32)


def test_population_is_mean_and_spread_over_seeds():
    values = [{"shots": 1, "seed": 1}, {"shots": 1, "seed": 2}, {"shots": 16, "seed": 1}]
    table = terminal.population_table(values, [result(1, 1, 0.5), result(1, 2, 0.6), result(16, 1, 0.9)])
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "16"]
    assert rows[0][2:5] == ["55.0%", "+-", "7.1"]  # of a sample: n - 1
    assert rows[1][2] == "90.0%" and "+-" not in rows[1][3]


def test_population_over_other_settings():
    values = [{"optim.lr": lr, "views": views} for lr in (0.1, 0.2) for views in (1, 8)]
    table = terminal.population_table(values, [result(4, 1, accuracy) for accuracy in (0.1, 0.2, 0.3, 0.4)])
    rows = [line.split() for line in table.splitlines() if line]
    assert rows[0][:3] == ["optim.lr", "views", "zero-shot"]
    assert rows[-1][:4] == ["0.2", "8", "50.0%", "40.0%"]


def plain(accuracy, **changed):
    found = result(16, 1, accuracy)
    found["test"] = dict.fromkeys(found["test"], found["test"]["mean"])
    return found | changed


def test_nothing_is_said_thrice_where_nothing_is_drawn():
    """Neither of a run nor of a population."""
    assert [line.split()[:2] for line in terminal.table(plain(0.7), 32).splitlines()[3:5]] == [
        ["zero-shot", "CLIP"],
        ["PiNI", "70.0%"],
    ]
    table = terminal.population_table([{"seed": 1}, {"seed": 2}], [plain(0.7), plain(0.8)])
    assert table.split() == ["zero-shot", "accuracy", "50.0%", "75.0%", "+-", "7.1"]


@pytest.mark.parametrize("changed", [{"steps": 0, "steps_per_second": 0.0}, {"steps_per_second": 0.3}])
def test_no_rate_of_nought(changed):
    assert "per second" not in terminal.table(plain(0.7, **changed), 32)


def test_what_can_hardly_be_meant_is_said():
    chance = {"accuracy": 0.11, "macro_f1": 0.1, "nll": 2.3, "ece": 0.1}
    assert not terminal.warnings(plain(0.7))
    (warning,) = terminal.warnings(plain(0.7, zero_shot=chance))
    assert "near chance" in warning and "--config.clip" in warning
    assert not terminal.warnings(plain(0.7, zero_shot=chance, clip="openai/clip-vit-base-patch16"))
    before = {"accuracy": 0.7}
    (warning,) = terminal.warnings(plain(0.7, val={"mean": {"accuracy": 0.6}}, val_zero_shot=before))
    assert "below zero-shot CLIP (60.0%, 70.0%)" in warning
    assert not terminal.warnings(plain(0.7, val={"mean": {"accuracy": 0.7}}, val_zero_shot=before))


def test_a_comparison_has_calibration_and_costs_beside_accuracy():
    """Means over shots; a dash where a method has no result with some of them, or an earlier one did not say."""

    def entry(name, shots, seconds, **more):
        found = plain(0.7, shots=shots, seconds={"setup": 1.0, "train": seconds}) | more
        believed = {"calibrated_nll": 0.5 * shots, "calibrated_ece": 0.125}
        both = {key: found["test"]["mean"] | believed for key in ("mean", "sample", "marginal")}
        return Entry(Path(name), name, found | {"test": both}, {"dataset": "digits", "clip": "tiny_clip"})

    known = [entry("gda", shots, shots, peak_bytes=1.5e9) for shots in (1, 3)]
    table = terminal.comparison([*known, entry("lonely", 3, 1.0)]).partition("means over shots")[2]
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:]}
    assert rows["NLL"] == ["calibrated", "ECE", "calibrated", "seconds", "peak", "MB"]
    assert rows["gda"] == ["1.250", "1.000", "0.062", "0.125", "3.0", "1,500"]
    assert rows["zero-shot"] == ["1.250", "-", "0.062", "-", "-", "-"]
    assert rows["lonely"] == ["-"] * 6
