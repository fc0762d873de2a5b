"""The commands of a sweep: plan, run, status."""

import json
import sys

import pytest

from pini_jax.core import command
from pini_jax.core.errors import InputError, UsageError
from pini_jax.launch import sweep, sweep_plan, sweep_run, sweep_status
from pini_jax.runs import experiment, worker
from pini_jax.runs.progress import Progress, Running

PLAN = ("--config=digits", "--config.population={'shots': (1, 4), 'seed': (1, 2)}", "--together=2")


def run(monkeypatch, made, *arguments):
    """A command as the command line calls it."""
    monkeypatch.setattr(sys, "argv", [made.name, *arguments])
    values = command.flags.FlagValues()
    made.define_flags(values)
    made.main(values, command.parse(made, values))


@pytest.fixture
def planned(tmp_path, monkeypatch, capsys):
    run(monkeypatch, sweep_plan.COMMAND, *PLAN, f"--workdir={tmp_path}")
    assert capsys.readouterr().out == f"4 runs in 2 units: pini sweep run --workdir={tmp_path}\n"
    return tmp_path


def test_a_plan_without_a_workdir_is_printed(monkeypatch, capsys):
    run(monkeypatch, sweep_plan.COMMAND, *PLAN)
    head, *runs = map(json.loads, capsys.readouterr().out.splitlines())
    assert (head["runs"], head["units"]) == (4, 2)
    assert {line["name"] for line in runs} == {f"shots_{k}-seed_{i}" for k in (1, 4) for i in (1, 2)}


def test_a_folder_of_other_runs_takes_no_plan(tmp_path, monkeypatch):
    (tmp_path / "shots_1-seed_1").mkdir()
    with pytest.raises(InputError, match=r"another command began \(shots_1-seed_1\)"):
        run(monkeypatch, sweep_plan.COMMAND, *PLAN, f"--workdir={tmp_path}")
    assert len(list(tmp_path.iterdir())) == 1


def test_plan_run_status(planned, monkeypatch, capsys):
    def train_together(folders, watch):
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "result.json").write_text("{}")

    monkeypatch.setattr(experiment, "train_together", train_together)
    run(monkeypatch, sweep_status.COMMAND, str(planned), "--json")
    assert json.loads(capsys.readouterr().out)["waiting"] == 4
    run(monkeypatch, sweep_run.COMMAND, f"--workdir={planned}", "--worker=1/2")
    run(monkeypatch, sweep_status.COMMAND, str(planned), "--watch")
    assert capsys.readouterr().out == f"{planned.name}: 4 runs, 4 finished, 0 running, 0 waiting, 0 failed\n"


def test_options_reach_the_worker(planned, monkeypatch):
    asked = []
    monkeypatch.setattr(worker, "work", lambda workdir, options: asked.append(options))
    run(
        monkeypatch,
        sweep_run.COMMAND,
        f"--workdir={planned}",
        "--worker=1/4",
        "--lease=9",
        "--retries=3",
        "--nowait",
    )
    assert asked == [worker.Options(0.25, 9.0, 3, False)]


@pytest.mark.parametrize("share", ["4/4", "x", "1", "-1/2", "1/0"])
def test_a_share_that_is_none_is_a_usage_error(planned, monkeypatch, share):
    with pytest.raises(UsageError, match="must be such as 0/8"):
        run(monkeypatch, sweep_run.COMMAND, f"--workdir={planned}", f"--worker={share}")


@pytest.mark.parametrize("made", [sweep_run.COMMAND, sweep_plan.COMMAND])
def test_another_store_is_refused(made, monkeypatch):
    more = PLAN if made is sweep_plan.COMMAND else ()
    with pytest.raises(InputError, match="only paths of this machine"):
        run(monkeypatch, made, *more, "--workdir=ftp://host/sweep")


def test_status_names_one_folder(monkeypatch):
    with pytest.raises(UsageError, match="one FOLDER"):
        run(monkeypatch, sweep_status.COMMAND, "a", "b")


def test_the_table_stays_short():
    running = [Running(i, f"host-{i}", 5, 10_000, 3.25) for i in range(30)]
    failed = {f"run_{i}": "why" for i in range(30)}
    now = Progress(1000, 400, 540, failed, running, 7300.0)
    lines = list(sweep_status.table(now, "paper"))
    assert lines[0] == "paper: 1000 runs, 400 finished, 30 running, 540 waiting, 30 failed"
    assert lines[1] == "time left: 2 h 2 min" and len(lines) < 30
    assert "5 / 10,000" in lines[3] and lines[3].endswith("3.2  host-0")
    assert "and 20 more units" in lines[13] and lines[-1].strip() == "and 20 more"


def test_a_list_of_runs_has_its_own_shots(monkeypatch, tmp_path):
    """The one-command sweep, of a config with `def sweep()`."""
    asked = []
    monkeypatch.setattr(sweep.training, "main", lambda values: asked.append(values.config.population))
    run(monkeypatch, sweep.COMMAND, "--config=paper_sweep", f"--workdir={tmp_path}")
    assert len(asked[0]) == 165
