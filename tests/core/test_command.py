"""Commands: what is typed wrong is one line, and the help is short."""

import pytest
from absl import flags

from pini_jax.core import command
from pini_jax.core.errors import UsageError


def define_flags(values):
    text = "Folder of the run, " + "which is explained at length " * 9
    flags.DEFINE_string("workdir", None, text, flag_values=values)
    flags.DEFINE_enum("mode", "mean", ("mean", "sample"), "How.", flag_values=values)
    flags.DEFINE_bool("loud", False, "Whether it shouts.", flag_values=values)


def make(argument):
    text = "Classifies images.\n\n    pini look --workdir=run a.png\n\nMore.\n"
    return command.Command("pini look", text, define_flags, lambda *_: None, ("workdir",), argument)


def parse(monkeypatch, arguments, argument="IMAGE"):
    monkeypatch.setattr("sys.argv", ["pini look", *arguments])
    values = flags.FlagValues()
    define_flags(values)
    return command.parse(make(argument), values), values


def test_flags_and_arguments_come_in_any_order(monkeypatch):
    arguments, values = parse(monkeypatch, ["a.png", "--workdir=run", "b.png", "--loud", "--", "--c.png"])
    assert arguments == ["a.png", "b.png", "--c.png"]
    assert (values.workdir, values.mode, values.loud) == ("run", "mean", True)


@pytest.mark.parametrize(
    ("arguments", "argument", "message"),
    [
        (["--wrokdir=run"], "IMAGE", "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
        (["a.png"], "IMAGE", "--workdir must be given; see pini look --help"),
        (["a.png", "--workdir="], "IMAGE", "--workdir must be given"),
        (["--workdir=run"], "IMAGE", "name one IMAGE or more; see pini look --help"),
        (["--workdir=run", "stray"], "", "'stray' is no flag"),
        (["--workdir"], "IMAGE", "Missing value for flag --workdir"),
        (["--workdir=run", "--mode=meen", "a.png"], "IMAGE", "--mode=meen: value should be one of <mean|sample>"),
        (["--workdir=run", "--loud=7", "a.png"], "IMAGE", "Non-boolean argument"),
    ],
)
def test_what_is_typed_wrong_is_told(monkeypatch, arguments, argument, message):
    with pytest.raises(UsageError) as error:
        parse(monkeypatch, arguments, argument)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_help_has_the_text_and_the_own_flags_alone(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr("sys.argv", ["pini look", "--help"])
    command.run(make("IMAGE"))
    text = capsys.readouterr().out
    assert text.startswith("usage: pini look [--FLAG=VALUE ...] IMAGE ...\n\nClassifies images.\n\n    pini look ")
    assert "  --workdir   Folder of the run, which" in text and "  --[no]loud  Whether it shouts.\n" in text
    assert "(default: 'mean')" in text
    words = [word for word in text.split() if word.startswith("--")]
    assert words == ["--workdir=run", "--workdir", "--mode", "--[no]loud"]
    assert max(map(len, text.splitlines())) <= 70
