"""The package: what it asks for, what it holds, and that it works where there is no checkout."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pini_jax.data.datasets import digits

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FEW = "views=1,optim.epochs=2,num_draws=2"


def test_requirements_are_the_core_and_all_extras():
    (everything,) = EXTRAS["all"]
    names = everything.partition("[")[2].strip("]").split(",")
    expected = {*PROJECT["dependencies"], *(package for name in names for package in EXTRAS[name])}
    assert (ROOT / "requirements.txt").read_text().splitlines() == sorted(expected, key=str.lower)
    assert set(names) == EXTRAS.keys() - {"all", "test", "docs", "dev"}


def test_every_extra_that_the_package_names_is_one():
    """In what it says where something is missing."""
    calls = re.compile(r'extras\.require\([^)]*, "(\w+)"\)')
    named = {name for path in (ROOT / "pini_jax").rglob("*.py") for name in calls.findall(path.read_text())}
    assert named == EXTRAS.keys() - {"all", "test", "docs", "dev"}


def test_the_lock_has_every_requirement():
    names = [line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    for requirement in (ROOT / "requirements.txt").read_text().splitlines():
        assert re.split("[<>=]", requirement)[0].lower().replace("_", "-") in names, "run make lock"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_what_a_user_needs_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    package = {name for name in tracked if name.startswith("pini_jax/")}
    beside = {f"pini_jax/{name}" for name in tracked if name.startswith(("configs/", "launch/"))}
    assert package | beside == {name for name in names if ".dist-info/" not in name}
    assert {"pini_jax/configs/digits.py", "pini_jax/launch/sweep.py", "pini_jax/py.typed"} <= names


@pytest.fixture(scope="module")
def pini(wheel, tmp_path_factory):
    """The command `pini` of an installed wheel, in an empty folder; the dependencies are those of the tests."""
    home = tmp_path_factory.mktemp("home")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, home, wheel], check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(home)}
    folder = tmp_path_factory.mktemp("empty")

    def run(*arguments, status=0):
        command = [sys.executable, home / "bin" / "pini", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    run.folder = folder
    return run


@pytest.mark.long
def test_the_wheel_works_in_an_empty_folder(pini):
    (pini.folder / "three.png").write_bytes(digits.load_digits().test[0].source)
    assert "PiNI, mean noise" in pini("train", f"--config=digits:shots=2,{FEW}", "--workdir=runs/digits")
    assert json.loads((pini.folder / "runs/digits/result.json").read_text())["shots"] == 2
    line = pini("predict", "--workdir=runs/digits", "three.png")
    assert line.startswith("three.png\t") and line.split("\t")[1] in digits.CLASS_NAMES
    pini("sweep", f"--config=digits:{FEW}", "--workdir=runs/sweep", "--shots=1,2", "--seeds=1")
    assert len(list((pini.folder / "runs/sweep").glob("*/result.json"))) == 2
    assert "runs/report/report.html" in pini("report", "runs", "--output=runs/report")
    assert (pini.folder / "runs/report/report.md").exists()
    assert "nothing is wrong" in pini("check", "--dataset=digits")


@pytest.mark.long
def test_configs_of_the_wheel_build_on_each_other(pini):
    """And a path of a checkout stands for none of them."""
    assert "no feature pack no.npz" in pini("train", "--config=structured:path=no.npz", "--workdir=a", status=1)
    line = pini("train", "--config=configs/digits.py", "--workdir=a", status=2)
    assert "the one that ships is named digits" in line and line.count("\n") == 1
