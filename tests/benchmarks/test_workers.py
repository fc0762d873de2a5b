"""A sweep by several workers, measured."""

import json

import pytest

from benchmarks import timing, workers


def test_the_plan_is_of_165_runs_in_units_of_a_dataset(tmp_path):
    plan = workers.make_plan(tmp_path)
    assert (len(plan.runs), len(plan.units)) == (165, 11)
    datasets = [{config.dataset for config in plan.configs(unit).values()} for unit in range(11)]
    assert all(len(names) == 1 for names in datasets) and len(set.union(*datasets)) == 11


@pytest.mark.long
def test_every_row_has_the_bits_of_the_first(monkeypatch, tmp_path, capsys):
    for name, value in {"PACKS": 1, "SHOTS": (1, 2), "SEEDS": (1,), "WORKERS": (2,)}.items():
        monkeypatch.setattr(workers, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(workers, "RESULT", tmp_path / "workers.json")
    workers.main(["--save"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["name"] for row in found["rows"]] == ["first", "alone", "2 workers"]
    assert found["runs"] == 4 and {row["other_bits"] for row in found["rows"]} == {0}
    kept = json.loads((tmp_path / "workers.json").read_text())
    assert timing.machine().items() <= (kept[0] if isinstance(kept, list) else kept).items()
