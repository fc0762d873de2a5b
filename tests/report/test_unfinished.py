"""What a sweep still lacks."""

import json
import shutil

import pytest
import sweeps

from pini_jax.core.errors import InputError
from pini_jax.report.unfinished import FAILED, NOT_BEGUN, UNDER_WAY, Unfinished, unfinished_runs


def test_what_is_finished_is_not_listed_and_all_else_is(tmp_path):
    sweeps.write_sweep(tmp_path, sweeps.NAMES[:1], shots=(1, 4), seeds=(1, 2), images=40)
    under_way, failed = tmp_path / "00-shots_1-seed_1", tmp_path / "00-shots_4-seed_2"
    sweeps.interrupt(under_way, failed)
    planned = json.loads((tmp_path / "population.json").read_text()) | {"00-shots_16-seed_1": {}}
    (tmp_path / "population.json").write_text(json.dumps(planned))
    # 20 images in batches of 7 are two steps of 150 epochs; the last line was cut off.
    assert unfinished_runs([tmp_path]) == [
        Unfinished(under_way, UNDER_WAY, 200, 300),
        Unfinished(failed, FAILED, reason="the loss is nan"),
        Unfinished(tmp_path / "00-shots_16-seed_1", NOT_BEGUN),
    ]


def test_steps_of_a_shot_are_counted_where_there_are_no_epochs(tmp_path):
    sweeps.write_sweep(tmp_path, sweeps.NAMES[:1], shots=(4,), seeds=(1,), images=40)
    (file,) = tmp_path.glob("*/config.json")
    (file.parent / "result.json").unlink()
    of_shots = {"options": {"steps_per_shot": 300}, "optim": {"epochs": 0}}
    file.write_text(json.dumps(json.loads(file.read_text()) | of_shots))
    (found,) = unfinished_runs([tmp_path])
    assert found.steps == 1200


def test_a_run_that_has_just_begun_has_no_steps_yet(tmp_path):
    (tmp_path / "config.json").write_text('{"method": "gda"}')
    assert unfinished_runs([tmp_path]) == [Unfinished(tmp_path, UNDER_WAY)]


def test_the_config_of_a_model_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert unfinished_runs([tmp_path]) == []


def test_a_run_that_a_worker_trains_is_under_way_once(tmp_path):
    """In the newest of its attempts, until it is published."""
    sweeps.write_sweep(tmp_path, sweeps.NAMES[:1], shots=(1,), seeds=(1,), images=40)
    (run,) = (file.parent for file in tmp_path.glob("*/config.json"))
    (run / "result.json").unlink()
    for number, steps in ((1, 30), (2, 60)):
        attempt = tmp_path / ".sweep" / "attempts" / f"000000.00{number}" / run.name
        shutil.copytree(run, attempt)
        (attempt / "metrics.jsonl").write_text(f'{{"step": {steps}}}\n')
    shutil.rmtree(run)
    assert unfinished_runs([tmp_path]) == [Unfinished(run, UNDER_WAY, 60, 100)]


def test_a_damaged_selection_leaves_the_steps_unknown(tmp_path):
    """The report of the others goes on; the run makes it again."""
    sweeps.write_sweep(tmp_path, sweeps.NAMES[:1], shots=(4,), seeds=(1,), images=40)
    (folder,) = (file.parent for file in tmp_path.glob("*/config.json"))
    (folder / "result.json").unlink()
    selection = json.loads((folder / "selection.json").read_text())
    for damaged in ("", "{}", json.dumps(selection | {"train": selection["train"][1:]})):
        (folder / "selection.json").write_text(damaged)
        (found,) = unfinished_runs([tmp_path])
        assert (found.state, found.steps) == (UNDER_WAY, 0)


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "selection.json").write_text('{"train": [1, 2]}')
    (tmp_path / "config.json").write_text('{"method": "gda"}')
    with pytest.raises(InputError, match="config.json is damaged: it has no batch_size and no views"):
        unfinished_runs([tmp_path])
