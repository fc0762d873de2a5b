"""Config files: by name, by path, and as lines where they fail."""

import sys

import pytest
from absl import flags

from pini_jax.core import command, config_file
from pini_jax.core.errors import InputError, UsageError

OWN = """
from pini_jax.configs import digits

def get_config(arguments=""):
    config = digits.get_config(arguments)
    config.shots = 3
    return config
"""


def test_a_config_that_ships_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"ablation", "digits", "features", "paper", "structured"} <= set(config_file.shipped())
    assert "__init__" not in config_file.shipped()
    assert config_file.load_config("digits").dataset == "digits"
    assert config_file.load_config("digits:shots=4,optim.lr=0.5").optim.lr == 0.5


def test_those_that_build_on_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file.load_config("structured:path=x.npz").dataset == "features:x.npz"
    assert config_file.load_config("ablation:base=paper,dataset=dtd").dataset == "dtd"
    with pytest.raises(InputError, match="no config file 'papre'; did you mean 'paper'"):
        config_file.load_config("ablation:base=papre")


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    """But a folder, such as that of the images, does not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert config_file.load_config("digits").shots == 16
    (tmp_path / "digits").rmdir()
    (tmp_path / "digits").write_text(OWN)
    assert config_file.load_config("digits").shots == 3
    (tmp_path / "my.py").write_text(OWN)
    assert config_file.load_config("my.py:seed=7").seed == 7
    assert config_file.load_config(f"{tmp_path}/my.py").shots == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digts", "no config file 'digts'; did you mean 'digits'"),
        ("configs/digits.py", "no config file 'configs/digits.py'; the one that ships is named digits"),
        ("nothing.py", "no config file 'nothing.py'; known: ablation, "),
        ("", "no config file ''; known: ablation, "),
    ],
)
def test_what_is_not_there_is_told(tmp_path, monkeypatch, name, message):
    """A path that does not exist stands for nothing else, not even for what ships under its name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        config_file.load_config(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("def get_config():\n    return nothing", "my.py:2: NameError: name 'nothing' is not defined"),
        ("import nothing", "my.py:1: ModuleNotFoundError"),
        ("def get_config(:", "my.py: SyntaxError"),
        ("x = 1", "my.py: AttributeError"),
        ("def get_config():\n    return {}", "my.py: get_config() must return a ConfigDict"),
    ],
)
def test_a_file_that_fails_is_told_with_its_line(tmp_path, monkeypatch, program, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(program)
    with pytest.raises(InputError) as error:
        config_file.load_config("my.py")
    assert message in str(error.value)


def test_a_file_may_define_dataclasses(tmp_path):
    """They look their own module up."""
    head = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    (tmp_path / "my.py").write_text(head + OWN)
    assert config_file.load_config(str(tmp_path / "my.py")).shots == 3


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["pini train", *arguments])
    values = flags.FlagValues()
    config_file.define_flag(values)
    command.parse(command.Command("pini train", "", config_file.define_flag, lambda *_: None), values)
    return values.config


def test_the_flag_sets_what_the_config_holds(monkeypatch):
    config = parse(monkeypatch, "--config=digits:shots=4", "--config.optim.lr=0.25", "--config.seed", "7")
    assert (config.shots, config.optim.lr, config.seed) == (4, 0.25, 7)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.shts=4", 'no such setting: shts: Did you mean "shots"'),
        ("--config.optim.lrr=4", 'Did you mean "lr"'),
        ("--config.optim.lr.x=4", "optim.lr.x"),
        ("--config.noise.pixels.generator=conv", "pixels"),
        ("--config.shots=abc", "'abc'"),
        ("--config.shots", "Missing value"),
        ("--config.=3", "Could not parse"),
        ("--config.optim=3", "not a dict"),
        ("--config=digts", "did you mean 'digits'"),
        ("--config=digits:shts=4", "did you mean 'shots'"),
        ("--config=digits:shots=abc", "shots is of type int"),
    ],
)
def test_what_cannot_be_set_is_told(monkeypatch, argument, message):
    with pytest.raises(UsageError) as error:
        parse(monkeypatch, "--config=digits", argument)
    assert message in str(error.value)
