"""A run that is killed or stopped and started again ends as one that never was."""

import logging
import random
import shutil
import signal

import commands
import pytest
import tiny_clips
from commands import saving, steps_saved, wait_for
from safetensors.numpy import load_file
from test_protocols import folder

from pini_jax import config
from pini_jax.evaluate import predictions, result
from pini_jax.runs import experiment


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    commands.finish(commands.start(workdir))
    return workdir


@pytest.mark.long
def test_sigkill_at_any_moment(undisturbed, tmp_path):
    """Killed before the first save, in the middle of saves, and at random: bit-identical in the end."""
    chance = random.Random(0)
    moments = [
        lambda: (tmp_path / "config.json").exists(),
        lambda: saving(tmp_path),
        lambda: steps_saved(tmp_path) and max(steps_saved(tmp_path)) >= 50 and saving(tmp_path),
        lambda: steps_saved(tmp_path) and max(steps_saved(tmp_path)) >= 100 and chance.random() < 0.02,
    ]
    for moment in moments:
        process = commands.start(tmp_path)
        wait_for(process, moment)
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
    output = commands.finish(commands.start(tmp_path))
    assert "going on from step" in output
    assert commands.content(tmp_path) == commands.content(undisturbed)


@pytest.mark.long
def test_a_stop_at_any_moment(undisturbed, tmp_path):
    """While it compiles, in the middle of saves, and at random: one line, status 42, and no step is lost."""
    chance = random.Random(1)
    moments = [
        (signal.SIGTERM, lambda: (tmp_path / "config.json").exists()),
        (signal.SIGINT, lambda: saving(tmp_path)),
        (signal.SIGUSR1, lambda: steps_saved(tmp_path)[-1:] >= [90] and chance.random() < 0.02),
    ]
    for number, moment in moments:
        process = commands.start(tmp_path)
        wait_for(process, moment)
        before = steps_saved(tmp_path)[-1:]
        process.send_signal(number)
        output, _ = process.communicate()
        assert process.returncode == 42 and "Traceback" not in output, output
        assert output.splitlines()[-1] == commands.STOPPED
        assert steps_saved(tmp_path)[-1:] > before
        assert len(steps_saved(tmp_path)) <= 3
    output = commands.finish(commands.start(tmp_path))
    assert "going on from step" in output
    assert commands.content(tmp_path) == commands.content(undisturbed)


def test_finished_run_is_not_repeated(undisturbed):
    before = (undisturbed / "result.json").stat().st_mtime_ns
    assert "is finished" in commands.finish(commands.start(undisturbed))
    assert (undisturbed / "result.json").stat().st_mtime_ns == before


def test_killed_between_training_and_result(undisturbed, tmp_path):
    """All steps are saved, result.json is not there: only the evaluation is done again."""
    process = commands.start(tmp_path)
    wait_for(process, lambda: 200 in steps_saved(tmp_path))
    process.kill()
    process.communicate()
    assert not (tmp_path / "result.json").exists()
    commands.finish(commands.start(tmp_path))
    assert commands.result(tmp_path) == commands.result(undisturbed)


@pytest.mark.long
def test_running_statistics_go_on_with_the_rest(tmp_path, monkeypatch, caplog):
    """Noise of pixels by convolutions, whose norms gather on the way: bit-identical in the end."""
    settings = config.resolve(
        {
            "dataset": f"folder:{folder(tmp_path / 'images')}",
            "clip": str(tiny_clips.hugging_face_folder(tmp_path / "clip", layers=1)),
            "noise": {"pixels": {"generator": "conv"}},
            "template": "the {}.",
            "shots": 2,
            "batch_size": 4,
            "optim": {"lr": 0.1, "epochs": 5},
            "log_every": 2,
            "checkpoint_every": 2,
        }
    )
    nothing = predictions.Kept({}, {})  # evaluation is no part of it
    monkeypatch.setattr(result, "predict_splits", lambda *_: nothing)
    monkeypatch.setattr(result, "measure_splits", lambda kept: {})
    experiment.train_and_evaluate(settings, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    (tmp_path / "resumed" / "result.json").unlink()
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "5")
    caplog.set_level(logging.INFO, "pini_jax")
    experiment.train_and_evaluate(settings, tmp_path / "resumed")
    assert "going on from step 4 of 5" in caplog.text
    assert any("batch_stats" in key for key in load_file(tmp_path / "whole" / "injector.safetensors"))
    assert not (tmp_path / "whole" / "classes.safetensors").exists()  # not enough where images are moved
    for name in ("injector.safetensors", "metrics.jsonl"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
