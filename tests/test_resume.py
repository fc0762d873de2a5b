"""A run that is killed and started again ends as one that never was."""

import random
import time

import pytest
import runs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    runs.finish(runs.start(workdir))
    return workdir


def wait_for(process, condition):
    while process.poll() is None and not condition():
        time.sleep(0.001)


def steps_saved(workdir):
    return [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]


def saving(workdir):
    return any((workdir / "checkpoints").glob("*tmp*"))


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
        process = runs.start(tmp_path)
        wait_for(process, moment)
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
    output = runs.finish(runs.start(tmp_path))
    assert "going on from step" in output

    def content(name):
        return (tmp_path / name).read_bytes(), (undisturbed / name).read_bytes()

    resumed, whole = content("injector.safetensors")
    assert resumed == whole
    resumed, whole = content("metrics.jsonl")
    assert resumed == whole
    assert runs.result(tmp_path) == runs.result(undisturbed)


def test_finished_run_is_not_repeated(undisturbed):
    before = (undisturbed / "result.json").stat().st_mtime_ns
    assert "is finished" in runs.finish(runs.start(undisturbed))
    assert (undisturbed / "result.json").stat().st_mtime_ns == before


def test_killed_between_training_and_result(undisturbed, tmp_path):
    """All steps are saved, result.json is not there: only the evaluation is done again."""
    process = runs.start(tmp_path)
    wait_for(process, lambda: 200 in steps_saved(tmp_path))
    process.kill()
    process.communicate()
    assert not (tmp_path / "result.json").exists()
    runs.finish(runs.start(tmp_path))
    assert runs.result(tmp_path) == runs.result(undisturbed)
