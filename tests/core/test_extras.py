"""Packages that only some runs need."""

import json
import shutil
import subprocess
import sys

import pytest

from pini_jax.core import extras
from pini_jax.core.errors import InputError
from pini_jax.core.paths import ASSETS
from pini_jax.data.datasets import digits


def test_what_is_there_is_imported():
    assert extras.require("json", "report") is json


def test_what_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"^matplotlib cannot be imported .*: pip install 'pini_jax\[report\]'$"):
        extras.require("matplotlib", "report")


# Instead of the packages of the extras there is nothing, as where the core alone is installed.
CORE_ALONE = """
import runpy, sys
for name in "array_record huggingface_hub matplotlib sentencepiece tensorflow_datasets transformers".split():
    sys.modules[name] = None
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
FEW = "--config=digits:shots=1,views=1,optim.epochs=2,num_draws=2"


def core_alone(module, *arguments):
    command = [sys.executable, "-c", CORE_ALONE, module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.long
def test_the_core_trains_and_predicts_alone(tmp_path):
    done = core_alone("pini_jax.main", FEW, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0 and "zero-shot CLIP" in done.stdout, done.stderr
    image = tmp_path / "three.png"
    image.write_bytes(digits.load_digits().test[0].source)
    done = core_alone("pini_jax.predict", f"--workdir={tmp_path / 'run'}", image)
    assert done.returncode == 0 and done.stdout.startswith(f"{image}\t"), done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("pini_jax.report", ["runs"], "report"),
        ("pini_jax.data", ["check", "--dataset=tfds:mnist"], "tfds"),
        ("pini_jax.main", [FEW, "--workdir=run", "--config.clip=owner/clip"], "hub"),
        ("pini_jax.main", [FEW, "--workdir=run", "--config.clip=old"], "tokenizers"),
        ("pini_jax.tiny_clip", ["--config=tiny_clip", "--workdir=run"], "report"),
    ],
)
def test_what_the_core_lacks_is_one_line(tmp_path, monkeypatch, module, arguments, extra):
    old = shutil.copytree(ASSETS / "tiny_clip", tmp_path / "old")
    tokenizer = json.loads((old / "tokenizer.json").read_text())["model"]
    (old / "vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    (old / "merges.txt").write_text("\n".join(" ".join(pair) for pair in tokenizer["merges"]))
    (old / "tokenizer.json").unlink()
    monkeypatch.setenv("PYTHONPATH", str(ASSETS.parent.parent))
    monkeypatch.chdir(tmp_path)
    done = core_alone(module, *arguments)
    assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'pini_jax[{extra}]'"), done.stderr
