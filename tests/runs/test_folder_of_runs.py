"""The files of a run's folder."""

import json
import os
import subprocess
import sys

import jax
import pytest

from pini_jax import config as configs
from pini_jax.core import paths
from pini_jax.core.errors import InputError
from pini_jax.runs import folder as results
from pini_jax.runs import provenance
from pini_jax.train.recorder import MetricsFile

CONFIG = configs.resolve({"seed": 7, "optim": {"lr": 0.01}})


def other(**settings):
    return configs.resolve({"seed": 7, "optim": {"lr": 0.01}} | settings)


def claim(workdir):
    """As a run does that begins."""
    workdir.mkdir(parents=True, exist_ok=True)
    paths.write_json(workdir / "provenance.json", {})
    paths.write_json(workdir / "config.json", configs.to_dict(CONFIG))


# ------------------------------------------------------------------------------------------------ write, claim


def test_write_is_json_and_nothing_else(tmp_path):
    paths.write_json(tmp_path / "a.json", {"x": [1, 0.1], "y": {"z": None}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 0.1], "y": {"z": None}}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_file_before_it(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    paths.write_json(file, {"x": 1})
    with pytest.raises(TypeError):
        paths.write_json(file, {"x": object()})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(paths.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        paths.write_json(file, {"x": 2})
    assert json.loads(file.read_text()) == {"x": 1}


def test_a_folder_belongs_to_the_config_that_claimed_it(tmp_path):
    workdir = tmp_path / "deep" / "run"
    assert results.finished(CONFIG, workdir) is None and not workdir.exists()
    results.make_room(CONFIG, workdir)
    assert results.finished(CONFIG, workdir) is None and not list(workdir.iterdir())
    claim(workdir)
    assert configs.resolve(json.loads((workdir / "config.json").read_text())) == CONFIG
    assert results.finished(CONFIG, workdir) is None
    results.write_result(workdir, {"test": 1})
    assert results.finished(CONFIG, workdir) == {"test": 1}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"shots": 4}, ["shots is 16 there, 4 here"]),
        ({"optim": {"lr": 0.02}}, ["optim.lr is 0.01 there, 0.02 here"]),
        ({"augment": {"scale": (0.5, 1.0)}}, ["augment.scale is [0.08, 1.0] there, [0.5, 1.0] here"]),
        ({"noise": {"prompt_tokens": {"generator": "table"}}}, ["noise.image_features"]),
        ({"shots": 4, "views": 3}, ["shots is 16 there, 4 here", "views is 0 there, 3 here"]),
    ],
    ids=str,
)
def test_another_config_is_refused_and_the_difference_named(tmp_path, changed, named):
    claim(tmp_path)
    for ask in (results.finished, results.make_room):
        with pytest.raises(InputError) as error:
            ask(other(**changed), tmp_path)
        message = str(error.value)
        assert all(name in message for name in named)
        assert "seed" not in message and str(tmp_path) in message
    # and the folder still is the first one's
    assert results.finished(CONFIG, tmp_path) is None


def test_a_folder_of_version_0_1_is_refused_by_a_line(tmp_path):
    claim(tmp_path)
    (tmp_path / "provenance.json").unlink()
    with pytest.raises(InputError, match="was made by version 0.1, which reads it"):
        results.finished(CONFIG, tmp_path)


def test_a_damaged_config_is_refused(tmp_path):
    claim(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(InputError, match="config.json is no valid JSON"):
        results.finished(CONFIG, tmp_path)


def test_a_config_that_is_no_mapping_is_refused(tmp_path):
    claim(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="config"):
        results.finished(CONFIG, tmp_path)


@pytest.mark.parametrize("content", ['{"test": ', "{}", "[]", '{"test": 2}'])
def test_a_damaged_result_is_named_and_made_again(tmp_path, caplog, content):
    claim(tmp_path)
    results.write_result(tmp_path, {"test": 1})
    (tmp_path / "result.json").write_text(content)
    assert results.finished(CONFIG, tmp_path) is None
    assert str(tmp_path / "result.json") in caplog.text and "is made again" in caplog.text


def test_one_changed_number_is_named(tmp_path):
    results.write_result(tmp_path, {"accuracy": 0.5, "mode": {"nll": 1.25}})
    path = tmp_path / "result.json"
    assert results.read_sealed(path)["accuracy"] == 0.5
    path.write_text(path.read_text().replace("1.25", "1.24"))
    with pytest.raises(InputError, match="result.json does not match its hash"):
        results.read_sealed(path)


def test_a_result_of_version_0_1_is_refused_by_a_line(tmp_path):
    (tmp_path / "result.json").write_text('{"test": 1}')
    with pytest.raises(InputError, match="earlier version, 0.1"):
        results.read_sealed(tmp_path / "result.json")


def test_one_process_at_a_time(tmp_path):
    """And who holds the folder is said."""
    with results.locked(tmp_path / "run"):
        with (
            pytest.raises(InputError, match=f"is being written by process {os.getpid()} on "),
            results.locked(tmp_path / "run"),
        ):
            pass
        claim(tmp_path / "run")
    with results.locked(tmp_path / "run"):
        pass


def test_a_lock_leaves_nothing_in_a_folder_where_nothing_was_written(tmp_path):
    with results.locked(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


HOLD = """
import pathlib, sys, time
from pini_jax.runs.folder import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_kill_releases_the_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(InputError, match=f"process {process.pid}"), results.locked(tmp_path):
            pass
        process.kill()
    with results.locked(tmp_path):
        pass


def test_the_folder_of_a_failed_run_takes_another_config(tmp_path):
    claim(tmp_path)
    results.record_failure(tmp_path, "training diverged")
    before = sorted(tmp_path.iterdir())
    for config in (CONFIG, other(shots=4)):
        assert results.finished(config, tmp_path) is None
        assert sorted(tmp_path.iterdir()) == before  # who asks changes nothing
    results.make_room(CONFIG, tmp_path)  # tried again
    assert sorted(tmp_path.iterdir()) == before
    results.make_room(other(shots=4), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folder_s_place_is_an_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"):
        results.make_room(CONFIG, tmp_path / "run")


# ------------------------------------------------------------------------------------------------ metrics.jsonl


def write_lines(path, steps, keep_until):
    with MetricsFile(path, keep_until) as file:
        for step in steps:
            file.write(step=step, loss=0.1 * step)
    return lines(path)


def lines(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [20, 40, 60, 80], keep_until=0)
    return path


def test_lines_are_the_values_in_full_precision(metrics):
    assert json.loads(metrics.read_text().splitlines()[0]) == {"step": 20, "loss": 0.1 * 20}


@pytest.mark.parametrize(("keep_until", "kept"), [(0, []), (39, [20]), (40, [20, 40]), (100, [20, 40, 60, 80])])
def test_lines_after_the_checkpoint_are_cut_off(metrics, keep_until, kept):
    assert write_lines(metrics, [], keep_until) == kept
    assert write_lines(metrics, [100, 120], keep_until) == [*kept, 100, 120]


@pytest.mark.parametrize("half", ['{"step": 100, "lo', '{"step": 100}', "{", '{"step": 60, "loss": 1}'])
def test_a_half_written_last_line_is_dropped(metrics, half):
    """A line is whole once its newline is there."""
    with open(metrics, "a") as file:
        file.write(half)
    assert write_lines(metrics, [120], keep_until=100) == [20, 40, 60, 80, 120]


def test_a_damaged_line_does_not_stop_a_run(metrics):
    """As a power cut leaves it: zeros where a line was."""
    with open(metrics, "a") as file:
        file.write("\0\0\0\0\n")
    assert write_lines(metrics, [120], keep_until=100) == [20, 40, 60, 80, 120]


def test_flushed_lines_are_on_the_disk_while_the_file_is_open(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, keep_until=0) as file:
        file.write(step=20)
        file.flush()
        assert lines(path) == [20]


def test_kept_lines_are_on_the_disk_at_once(metrics):
    """A kill before the first flush loses none of them."""
    file = MetricsFile(metrics, keep_until=60)
    assert lines(metrics) == [20, 40, 60]
    with file:
        file.write(step=80)
    assert lines(metrics) == [20, 40, 60, 80]


# ------------------------------------------------------------------------------------------------ the rest


def test_clock_times_phases():
    clock = provenance.Clock()
    with clock.phase("a"), clock.phase("b"):
        pass
    assert set(clock.seconds) == {"a", "b"}
    assert 0 <= clock.seconds["b"] <= clock.seconds["a"] < 1


def test_device_and_versions():
    assert provenance.device().startswith(f"{jax.device_count()} x cpu (")
    assert provenance.versions()["jax"] == jax.__version__
    assert {"pini_jax", "python", "numpy", "orbax-checkpoint"} <= set(provenance.versions())
