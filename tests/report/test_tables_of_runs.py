"""Tables from result files."""

from pini_jax.report import tables as report


def result(shots, seed, accuracy, method="pini"):
    values = {"accuracy": accuracy, "macro_f1": accuracy, "nll": 1.25, "ece": 0.0625}
    return {
        "method": method,
        "dataset": "digits",
        "clip": "tiny_clip",
        "shots": shots,
        "seed": seed,
        "num_test": 1005,
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
    table = report.table(result(16, 1, 0.7), num_draws=32)
    for text in (
        "50.0%",
        "70.0%",
        "75.0%",
        "1.250",
        "0.062",
        "23,488",
        "0.19 MB",
        "32 samples",
        "train 2.0",
        "+0.375",
        "-0.125",
    ):
        assert text in table


def test_a_rival_has_one_row():
    rows = [
        line.split()[0] for line in report.table(result(16, 1, 0.7, "task_res"), num_draws=32).splitlines()[3:5]
    ]
    assert rows == ["zero-shot", "task_res"]
    assert "PiNI" not in report.table(result(16, 1, 0.7, "task_res"), num_draws=32)


def test_population_is_mean_and_spread_over_seeds():
    values = [{"shots": 1, "seed": 1}, {"shots": 1, "seed": 2}, {"shots": 16, "seed": 1}]
    table = report.population_table(values, [result(1, 1, 0.5), result(1, 2, 0.6), result(16, 1, 0.9)])
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "16"]
    assert rows[0][2:5] == ["55.0%", "+-", "5.0"]
    assert rows[1][2:5] == ["90.0%", "+-", "0.0"]


def test_population_over_other_settings():
    values = [{"optim.lr": lr, "views": views} for lr in (0.1, 0.2) for views in (1, 8)]
    table = report.population_table(values, [result(4, 1, accuracy) for accuracy in (0.1, 0.2, 0.3, 0.4)])
    assert "optim.lr, views" in table and "0.2, 8" in table and "40.0% +- 0.0" in table
