"""The report of many runs: what it says first, and what its files are called."""

from test_collect import result, write

from pini_jax.report import collect, many_runs


def report(top, *folders):
    return many_runs.report_runs(collect.collect([top, *folders]), [], top)[0]


def test_every_dataset_has_files_of_its_own(tmp_path):
    """Whatever letters its name is of."""
    for name in ("犬", "猫"):
        write(tmp_path / name, result(1, 1, 0.6), dataset=f"folder:{name}")
    report(tmp_path)
    assert [x.name for x in sorted(tmp_path.glob("*-reliability.png"))] == [
        "on_given_features_1-reliability.png",
        "on_given_features_2-reliability.png",
    ]
