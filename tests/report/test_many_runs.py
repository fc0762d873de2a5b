"""The report of many runs: what it says first, and what its files are called."""

from test_collect import result, write

from pini_jax.report import collect, many_runs


def report(top, *folders):
    return many_runs.report_runs(collect.collect([top, *folders]), [], top)[0]


def test_only_methods_with_runs_at_all_shots_are_ranked(tmp_path):
    """The others may have been spared the hard ones."""
    for method, accuracies in {"gda": {16: 0.9}, "pini": {1: 0.6, 16: 0.8}, "proker": {1: 0.5, 16: 0.8}}.items():
        for shots, accuracy in accuracies.items():
            for seed in (1, 2):
                found = result(shots, seed, accuracy + 0.01 * seed, method=method)
                write(tmp_path / f"{method}-{shots}-{seed}", found)
    lead = report(tmp_path).lead
    assert "pini has the highest mean accuracy, 71.5%" in lead
    assert lead.endswith(
        "It differs from every other beyond chance. 1 of 3 methods lack runs at some shots, and are not ranked."
    )


def test_nobody_is_best_where_no_method_has_all_shots(tmp_path):
    write(tmp_path / "a", result(1, 1, 0.6))
    write(tmp_path / "b", result(16, 1, 0.9, method="gda"))
    assert "none is called the best" in report(tmp_path).lead


def test_every_dataset_has_files_of_its_own(tmp_path):
    """Whatever letters its name is of."""
    for name in ("犬", "猫"):
        write(tmp_path / name, result(1, 1, 0.6), dataset=f"folder:{name}")
    report(tmp_path)
    assert [x.name for x in sorted(tmp_path.glob("*-reliability.png"))] == [
        "on_given_features_1-reliability.png",
        "on_given_features_2-reliability.png",
    ]
