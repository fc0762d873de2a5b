"""The files of a run's folder."""

import json
import re

import jax
import pytest

from pini_jax import config as configs
from pini_jax.core.errors import InputError
from pini_jax.runs import folder as results

CONFIG = configs.resolve({"seed": 7, "optim": {"lr": 0.01}})


def other(**settings):
    return configs.resolve({"seed": 7, "optim": {"lr": 0.01}} | settings)


# ------------------------------------------------------------------------------------------------ write, claim


def test_write_is_json_and_nothing_else(tmp_path):
    results.write(tmp_path / "a.json", {"x": [1, 0.1], "y": {"z": None}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 0.1], "y": {"z": None}}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_file_before_it(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    results.write(file, {"x": 1})
    with pytest.raises(TypeError):
        results.write(file, {"x": object()})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(results.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        results.write(file, {"x": 2})
    assert json.loads(file.read_text()) == {"x": 1}


def test_a_folder_belongs_to_the_config_that_claimed_it(tmp_path):
    workdir = tmp_path / "deep" / "run"
    assert results.finished(CONFIG, workdir) is None
    results.claim(CONFIG, workdir)
    assert configs.resolve(json.loads((workdir / "config.json").read_text())) == CONFIG
    assert results.finished(CONFIG, workdir) is None
    results.write(workdir / "result.json", {"test": 1})
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
    results.claim(CONFIG, tmp_path)
    with pytest.raises(InputError) as error:
        results.finished(other(**changed), tmp_path)
    message = str(error.value)
    assert all(name in message for name in named)
    assert "seed" not in message and str(tmp_path) in message
    # and the folder still is the first one's
    assert results.finished(CONFIG, tmp_path) is None


def test_a_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(InputError, match="config.json is no valid JSON"):
        results.finished(CONFIG, tmp_path)


def test_a_config_that_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="config"):
        results.finished(CONFIG, tmp_path)


def test_a_damaged_result_is_named(tmp_path):
    """`result.json` is written at once, so only something else can have damaged it."""
    results.claim(CONFIG, tmp_path)
    (tmp_path / "result.json").write_text('{"test": ')
    with pytest.raises(InputError, match=re.escape("result.json")):
        results.finished(CONFIG, tmp_path)


def test_a_file_in_the_folder_s_place_is_an_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"):
        results.claim(CONFIG, tmp_path / "run")


# ------------------------------------------------------------------------------------------------ metrics.jsonl


def write_lines(path, steps, keep_until):
    with results.MetricsFile(path, keep_until) as file:
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
    with results.MetricsFile(path, keep_until=0) as file:
        file.write(step=20)
        file.flush()
        assert lines(path) == [20]


def test_kept_lines_are_on_the_disk_at_once(metrics):
    """A kill before the first flush loses none of them."""
    file = results.MetricsFile(metrics, keep_until=60)
    assert lines(metrics) == [20, 40, 60]
    with file:
        file.write(step=80)
    assert lines(metrics) == [20, 40, 60, 80]


# ------------------------------------------------------------------------------------------------ the rest


def test_clock_times_phases():
    clock = results.Clock()
    with clock.phase("a"), clock.phase("b"):
        pass
    assert set(clock.seconds) == {"a", "b"}
    assert 0 <= clock.seconds["b"] <= clock.seconds["a"] < 1


def test_device_and_versions():
    assert results.device().startswith(f"{jax.device_count()} x cpu (")
    assert results.versions()["jax"] == jax.__version__
    assert {"pini_jax", "python", "numpy", "orbax-checkpoint"} <= set(results.versions())
