"""What goes wrong is one clear line, and nothing that was there is lost."""

import contextlib
import dataclasses
import itertools
import os
import re
import shutil
from pathlib import Path

import commands
import jax.numpy as jnp
import numpy as np
import pytest
import test_protocols as protocols
import tiny_clips
from PIL import Image
from safetensors.numpy import load_file, save_file
from samples import sample

from pini_jax import config as configs
from pini_jax.clip.checkpoints.hub import BUNDLED
from pini_jax.core import paths
from pini_jax.core.errors import InputError
from pini_jax.methods import forward
from pini_jax.runs import experiment
from pini_jax.runs import folder as run_folder


def fails(workdir, *overrides, status=1, **kwargs):
    """The one line that a run prints before it ends with this status."""
    process = commands.start(workdir, *overrides, **kwargs)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
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
    status = 2 if "shotss" in setting else 1  # what is typed wrong
    assert SETTINGS[setting] in fails(tmp_path / "run", setting, status=status)
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


@pytest.mark.long
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
    assert re.search(r"checkpoint 200 could not be written, earlier ones are kept \(File too large\)", line)
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
    assert "belongs to another CLIP" in fails(tmp_path / "run", setting)


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


# ------------------------------------------------------------------------------------------------ not finite


@pytest.fixture
def colours(tmp_path):
    """Three classes of small pictures, and what trains on them in no time."""
    return tiny_clips.small_run(protocols.folder(tmp_path / "images"), tmp_path / "clip")


# Rates at which the last update, or what follows from it, is no number; two steps of which the first is the last.
@pytest.mark.long
@pytest.mark.parametrize("epochs", (1, 2))
@pytest.mark.parametrize("rate", (1e20, 1e30, 1e38))
def test_an_update_that_is_no_number(colours, tmp_path, epochs, rate):
    """It is seen after the last step too; nothing of it is exported, and the same command says the same again."""
    settings = configs.resolve(colours | {"optim": {"epochs": epochs, "lr": rate, "warmup_lr": rate}})
    for _ in range(2):
        with pytest.raises(InputError, match="training diverged: .*; lower optim.lr"):
            experiment.train_and_evaluate(settings, tmp_path / "run")
        written = {path.name for path in (tmp_path / "run").iterdir()}
        assert "failure.json" in written
        assert not written & {"injector.safetensors", "classes.safetensors", "result.json"}
    mended = configs.resolve(colours | {"optim": {"epochs": epochs}})
    assert experiment.train_and_evaluate(mended, tmp_path / "run")["steps"] == epochs


def test_the_learning_rate_is_not_blamed_for_what_was_before_it(colours, tmp_path, monkeypatch):
    """A first loss that is no number."""

    def loss(*inputs):
        parts, buffers = forward_loss(*inputs)
        return parts._replace(loss=parts.loss * jnp.nan), buffers

    forward_loss = forward.loss
    monkeypatch.setattr(forward, "loss", loss)
    settings = configs.resolve(colours | {"optim": {"epochs": 30}})
    with pytest.raises(InputError, match="look at the features and the noise") as error:
        experiment.train_and_evaluate(settings, tmp_path / "run")
    assert "optim.lr" not in str(error.value)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_features_that_are_no_numbers_are_named_before_the_training(colours, tmp_path, tower):
    """Weights that are numbers, and so large that what they make of an image or a class is none."""
    file = tmp_path / "clip" / "model.safetensors"
    weights = load_file(file)
    names = [name for name in weights if name.startswith(f"{tower}_model.") and "mlp.fc" in name]
    save_file(weights | {name: np.full_like(weights[name], 1e30) for name in names}, file)
    with pytest.raises(
        InputError, match=f"the {'image' if tower == 'vision' else 'text'} tower's features"
    ) as error:
        experiment.train_and_evaluate(configs.resolve(colours), tmp_path / "run")
    assert ("seven/" if tower == "vision" else "seven") in str(error.value)
    assert not list((tmp_path / "run").iterdir())


# ------------------------------------------------------------------------------------------------ damaged files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of nine steps with checkpoints."""
    made = tmp_path_factory.mktemp("whole")
    training = {"batch_size": 2, "log_every": 2, "checkpoint_every": 2, "optim": {"epochs": 3}}
    settings = configs.resolve(tiny_clips.small_run(protocols.folder(made / "images"), made / "clip", **training))
    experiment.train_and_evaluate(settings, made / "run")
    return settings, made / "run"


@pytest.fixture
def unfinished(whole, tmp_path):
    """The same, cut off before its last step."""
    settings, workdir = whole
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "9")
    return settings, tmp_path / "run"


DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\0\xff{" * 20,
    "list": lambda content: b"[]",
    "object": lambda content: b"{}",
    "number": lambda content: b"1e999",
    "digit": lambda content: re.sub(rb"\d", lambda digit: b"%d" % (9 - int(digit[0])), content, count=1),
}
# Files that are made again, and what names them; nobody reads those without.
REBUILT = {
    "selection.json": "selection.json",
    "provenance.json": "provenance.json",
    "result.json": "result.json",
    "split.json": "",
    "injector.safetensors": "",
    "classes.safetensors": "",
    "checkpoints/8/_CHECKPOINT_METADATA": "checkpoint 8 is damaged",
    "checkpoints/8/state/_METADATA": "checkpoint 8 is damaged",
}


@pytest.mark.parametrize("damage", sample(DAMAGE, "half", "digit"))
def test_what_is_damaged_is_named_and_made_again(whole, unfinished, caplog, damage):
    """All at once: training begins anew, and ends as it had."""
    settings, workdir = unfinished
    shutil.copy(whole[1] / "result.json", workdir)
    for name in REBUILT:
        spoil(workdir / name, damage)
    experiment.train_and_evaluate(settings, workdir)
    for name, named in REBUILT.items():
        # Some digit in what Orbax says of a checkpoint is of no matter: a hash over its arrays is.
        if damage != "digit" or "checkpoints" not in name:
            assert named in caplog.text
    assert commands.content(workdir) == commands.content(whole[1])


@pytest.mark.parametrize("name", sample(REBUILT, "selection.json", "checkpoints/8/state/_METADATA"))
def test_what_is_lost_is_made_again(whole, unfinished, name):
    settings, workdir = unfinished
    spoil(workdir / name, "lost")
    experiment.train_and_evaluate(settings, workdir)
    assert commands.content(workdir) == commands.content(whole[1])


def spoil(file, damage):
    if damage == "lost":
        file.unlink(missing_ok=True)
    elif file.exists():
        file.write_bytes(DAMAGE[damage](file.read_bytes()))


@pytest.mark.parametrize("damage", sample([*DAMAGE, "lost"], "half", "lost"))
def test_damaged_lines_of_metrics_are_named(whole, unfinished, caplog, damage):
    """They are all that cannot be made again: what follows from the checkpoints is as it was."""
    settings, workdir = unfinished
    spoil(workdir / "metrics.jsonl", damage)
    experiment.train_and_evaluate(settings, workdir)
    assert "metrics.jsonl" in caplog.text
    result, files, steps = commands.content(workdir)
    expected, expected_files, _ = commands.content(whole[1])
    assert result == expected and steps == [8, 9]
    assert files["injector.safetensors"] == expected_files["injector.safetensors"]
    lines = (workdir / "metrics.jsonl").read_bytes().splitlines()
    assert lines[-1] == expected_files["metrics.jsonl"].splitlines()[-1]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_config_is_named_and_nothing_is_touched(unfinished, damage):
    settings, workdir = unfinished
    spoil(workdir / "config.json", damage)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="config") as error:
        experiment.train_and_evaluate(settings, workdir)
    assert "\n" not in str(error.value) and str(workdir) in str(error.value)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }


def test_a_lost_config_does_not_let_another_one_go_on(unfinished):
    """Checkpoints know whose they are."""
    settings, workdir = unfinished
    (workdir / "config.json").unlink()
    other = dataclasses.replace(settings, optim=dataclasses.replace(settings.optim, lr=0.5))
    with pytest.raises(InputError, match="belongs to another config"):
        experiment.train_and_evaluate(other, workdir)


def test_a_damaged_selection_is_not_made_from_other_data(unfinished):
    settings, workdir = unfinished
    (workdir / "selection.json").write_text("{}")
    images = Path(settings.dataset.removeprefix("folder:"))
    changed = images.parent / "changed"
    shutil.copytree(images, changed)
    for file in (changed / "three").iterdir():
        file.rename(file.with_name(f"other_{file.name}"))
    moved = images.rename(images.parent / "kept")
    changed.rename(images)
    try:
        with pytest.raises(InputError, match="the checkpoints beside it belong to other data"):
            experiment.train_and_evaluate(settings, workdir)
        assert (workdir / "selection.json").read_text() == "{}"
    finally:
        shutil.rmtree(images)
        moved.rename(images)


def test_why_an_image_cannot_be_read_may_be_said_in_other_words(colours, tmp_path):
    """Which one it is may not change."""
    images = Path(colours["dataset"].removeprefix("folder:"))
    (images / "three" / "9.jpg").write_bytes(b"no image")
    settings, file = configs.resolve(colours | {"optim": {"epochs": 1}}), tmp_path / "run" / "selection.json"
    experiment.train_and_evaluate(settings, tmp_path / "run")
    written = run_folder.read_sealed(file)
    assert list(written["left_out"]) == ["three/9.jpg"]
    for left_out, differs in (({"three/9.jpg": "as Pillow 99 puts it"}, False), ({"three/8.jpg": "why"}, True)):
        paths.write_json(file, run_folder.seal(written | {"left_out": left_out}))
        (tmp_path / "run" / "result.json").unlink()
        with pytest.raises(InputError, match="the data have changed") if differs else contextlib.nullcontext():
            experiment.train_and_evaluate(settings, tmp_path / "run")


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_replaced_under_their_names_are_noticed(colours, tmp_path, caplog, split):
    """A finished run says so, and one that is not finished does not go on."""
    images = tmp_path / "replaced"
    shutil.copytree(colours["dataset"].removeprefix("folder:"), images)
    settings = configs.resolve(colours | {"dataset": f"folder:{images}", "optim": {"epochs": 1}})
    experiment.train_and_evaluate(settings, tmp_path / "run")
    written = {
        "train": run_folder.read_sealed(tmp_path / "run" / "selection.json"),
        "test": paths.read_object(tmp_path / "run" / "split.json"),
    }
    replaced = written[split][split][0][0]
    Image.new("RGB", (40, 30), "purple").save(images / replaced)
    caplog.clear()
    experiment.train_and_evaluate(settings, tmp_path / "run")
    assert "its data have changed since: another workdir trains on them" in caplog.text
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(InputError, match="the data have changed since"):
        experiment.train_and_evaluate(settings, tmp_path / "run")


def test_the_reason_of_a_failure_may_be_lost(unfinished):
    settings, workdir = unfinished
    (workdir / "failure.json").write_text("{")
    other = dataclasses.replace(settings, seed=5)
    assert experiment.train_and_evaluate(other, workdir)["seed"] == 5
