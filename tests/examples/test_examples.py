"""Plug-ins and programs to start from: each does what its header says."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pini_jax import plugins, register
from pini_jax.core.errors import InputError
from pini_jax.data.datasets import digits
from pini_jax.noise.generators import Table
from pini_jax.noise.sites import SITES

ROOT = Path(__file__).parent.parent.parent
PLUGINS = ("new_generator", "new_site", "new_method", "new_dataset")
SLOW = ("new_generator", "new_site", "new_dataset")  # a run over towers, which are compiled
LEARNED = [pytest.param(name, marks=pytest.mark.long if name in SLOW else ()) for name in PLUGINS]
SHORT = ("--config.views=1", "--config.optim.epochs=3", "--config.num_draws=2", "--config.shots=2")


def run(*words):
    """A command in a process of its own, from the checkout's folder."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(name, workdir):
    """The command in the header of an example, in little time."""
    text = (ROOT / "examples" / f"{name}.py").read_text()
    (lines,) = re.findall(r"python (-m pini_jax.main .*?)\n\"\"\"", text, flags=re.S)
    words = [word for word in shlex.split(lines.replace("\\\n", " ")) if not word.startswith("--workdir")]
    return [*words, *SHORT, f"--workdir={workdir}"]


@pytest.mark.parametrize("name", LEARNED)
def test_a_run_with_a_plug_in_is_made_and_predicts_in_a_new_process(name, tmp_path):
    assert "zero-shot CLIP" in run(*command(name, tmp_path / "run"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < result["test"]["mean"]["accuracy"] <= 1
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert set(provenance["plugins"]) == {f"examples/{name}.py"}
    (tmp_path / "digit.png").write_bytes(digits.load_digits().test[0].source)
    printed = run("-m", "pini_jax.predict", f"--workdir={tmp_path / 'run'}", str(tmp_path / "digit.png"))
    assert printed.split("\t")[1] in digits.CLASS_NAMES


@pytest.mark.parametrize("name", [*PLUGINS, "own_training", "photos", "features", "ray_predict"])
def test_an_example_fits_on_a_screen(name):
    lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 65


def test_ones_own_training_loop_learns():
    main = runpy.run_path(str(ROOT / "examples" / "own_training.py"))["main"]
    assert main(steps=100) > 0.85  # 75 % before


def test_photos_in_a_folder_are_classified(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    data = digits.load_digits()
    for record in [record for record in data.train if record.label < 3][:48]:
        file = tmp_path / "photos" / data.class_names[record.label] / f"{record.id.replace('/', '_')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(record.source)
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / "examples" / "photos.py"))["main"]
    assert main("photos", "tiny_clip", method="tip_adapter") > 0.8
    assert len(capsys.readouterr().out.splitlines()) == 3 and Path("photos.safetensors").exists()


@pytest.mark.long
def test_settings_are_searched_on_features_in_memory():
    pytest.importorskip("sklearn")
    main = runpy.run_path(str(ROOT / "examples" / "features.py"))["main"]
    assert main(shots=4) > 0.75  # as before


def test_a_changed_plug_in_is_named(caplog):
    name = str(ROOT / "examples" / "new_generator.py")
    plugins.warn_of_changes(plugins.load_plugins([name]), "then")
    assert not caplog.text
    plugins.warn_of_changes({name: "ab" * 32}, "then")
    assert f"the plug-in {name} has changed since then" in caplog.text


WRONG = {
    "nowhere.py": "no file nowhere.py",
    "no_such_module_here": "no file, no entry point and no module",
    "broken.py": "broken.py cannot be imported .*ZeroDivisionError",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_plug_in(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("1 / 0")
    with pytest.raises(InputError, match=WRONG[name]):
        plugins.load_plugins([name])


def test_names_are_registered_once():
    with pytest.raises(InputError, match="there is a generator of text_features 'table' already"):
        register.generator("text_features", "table")(Table)
    with pytest.raises(InputError, match="no site 'nowhere'"):
        register.generator("nowhere", "table")(Table)
    with pytest.raises(InputError, match="there is a site 'pixels' already"):
        register.site(SITES["pixels"])
    with pytest.raises(InputError, match="there is a dataset 'digits' already|there is a dataset"):
        register.dataset("folder:PATH")(lambda name, root, seed: None)
