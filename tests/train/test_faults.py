"""What goes wrong is one clear line, and nothing that was there is lost."""

import itertools
import os
import re
import shutil

import commands
import pytest
from PIL import Image

from pini_jax import config as configs
from pini_jax.clip.checkpoints.hub import BUNDLED
from pini_jax.core.errors import InputError
from pini_jax.runs import experiment


def fails(workdir, *overrides, **kwargs):
    """The one line that a run prints before it ends with status 1."""
    process = commands.start(workdir, *overrides, **kwargs)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, output
    return lines[0]


def folder(tmp_path, change):
    """The bundled CLIP, changed by `change(folder)`."""
    copy = tmp_path / "clip"
    shutil.copytree(BUNDLED, copy)
    change(copy)
    return str(copy)


def truncate(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


CLIPS = {
    "no folder": (lambda copy: shutil.rmtree(copy), "no such folder"),
    "no weights": (lambda copy: (copy / "model.safetensors").unlink(), "model.safetensors is missing"),
    "truncated weights": (truncate, "truncated"),
    "no config": (lambda copy: (copy / "config.json").unlink(), "config.json is missing"),
    "no CLIP": (lambda copy: (copy / "config.json").write_text('{"model_type": "bert"}'), "'bert' model"),
    "no tokenizer": (lambda copy: (copy / "tokenizer.json").unlink(), "no tokenizer"),
}


@pytest.mark.parametrize("name", CLIPS)
def test_unusable_clip(tmp_path, name):
    change, message = CLIPS[name]
    config = configs.resolve({"clip": folder(tmp_path, change)})
    with pytest.raises(InputError, match=message):
        experiment.train_and_evaluate(config, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir()), "the folder is still free for the corrected run"


SETTINGS = {
    "--config.template={} alone": "nothing before {}",
    "--config.shotss=4": 'Did you mean "shots"',
    "--config.shots=0": "shots=0 must be at least 1",
    "--config.shots=1000": "no class of digits has more than",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_impossible_setting(tmp_path, setting):
    assert SETTINGS[setting] in fails(tmp_path / "run", setting)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_training_that_diverges(tmp_path):
    line = fails(tmp_path / "run", "--config.optim.lr=1e6")
    assert "training diverged" in line and "lower optim.lr" in line
    assert not (tmp_path / "run" / "result.json").exists()


def test_batch_that_devices_do_not_divide(tmp_path):
    assert "batch_size=16 is not divisible by the 3 devices" in fails(tmp_path, devices=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    commands.finish(commands.start(workdir))
    return workdir


def test_workdir_of_another_config(finished):
    before = commands.result(finished)
    line = fails(finished, "--config.seed=7", "--config.optim.lr=0.5")
    assert "seed is 1 there, 7 here" in line and "optim.lr is" in line
    assert commands.result(finished) == before


def test_full_disk_keeps_earlier_checkpoints(finished, tmp_path, monkeypatch):
    """A run goes on after a disk was full (no file could grow beyond a few kilobytes)."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "200")

    # A copy of the cache, whose new files are cut off too.
    shutil.copytree(os.environ["XDG_CACHE_HOME"], tmp_path / "cache")  # follows the link
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    line = fails(tmp_path / "run", limit="ulimit -f 40")  # blocks of 512 bytes
    monkeypatch.undo()
    assert re.search(r"checkpoint 200 could not be written, earlier ones are kept .*File too large", line)
    assert "going on from step 190" in commands.finish(commands.start(tmp_path / "run"))
    assert commands.result(tmp_path / "run") == commands.result(finished)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert "Not a directory" in fails(tmp_path / "file" / "run")


def test_corrupt_checkpoint_falls_back(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    for file in (tmp_path / "run" / "checkpoints" / "200").rglob("d/*"):
        file.write_bytes(b"damaged" + file.read_bytes()[7:])
    output = commands.finish(commands.start(tmp_path / "run"))
    assert "checkpoint 200 is damaged and is skipped" in output and "Traceback" not in output
    assert "going on from step 190" in output
    assert commands.result(tmp_path / "run") == commands.result(finished)


def test_checkpoint_of_another_clip(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    setting = f"--config.clip={folder(tmp_path, lambda copy: None)}"
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"tiny_clip"', f'"{tmp_path / "clip"}"'))
    weights = tmp_path / "clip" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # the last bit of some weight
    weights.write_bytes(content)
    assert "was trained on another CLIP" in fails(tmp_path / "run", setting)


def test_unreadable_test_image_before_the_training(tmp_path):
    """With all others that cannot be read, and before anything is written."""
    for split, name in itertools.product(("train", "test"), ("cat", "dog")):
        (tmp_path / "images" / split / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (40 * i, 90, 10)).save(tmp_path / "images" / split / name / f"{i}.png")
    for name in ("cat", "dog"):
        (tmp_path / "images" / "test" / name / "1.png").write_bytes(b"no image")
    settings = {"clip": "tiny_clip", "dataset": f"folder:{tmp_path / 'images'}", "shots": 1, "views": 1}
    settings["max_unreadable"] = 0
    with pytest.raises(InputError, match=r"cat/1.png.*dog/1.png"):
        experiment.train_and_evaluate(configs.resolve(settings), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
