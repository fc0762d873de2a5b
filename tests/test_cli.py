"""The command `pini`: its list, its speed, and that it runs what it lists."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pini_jax
from pini_jax import cli
from pini_jax.core.command import Command


def pini(*arguments, program="from pini_jax import cli; cli.main()"):
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)


def test_the_list_of_commands_has_a_line_for_each():
    done = pini("--help")
    lines = [(line[:16].strip(), line[16:]) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert done.returncode == 0 and [name for name, _ in lines] == list(cli.COMMANDS)
    assert all(text.endswith(".") and len(text) < 80 for _, text in lines)


def test_the_list_does_not_wait_for_jax():
    slow = "{'jax', 'numpy', 'absl', 'ml_collections'}"
    program = f"import sys; from pini_jax import cli; cli.main(); print({slow} & set(sys.modules))"
    done = pini("--help", program=program)
    assert done.stdout.splitlines()[-1] == "set()"


def test_an_answer_does_not_wait_for_what_trains_or_serves():
    slow = "{'orbax', 'pandas', 'pyarrow', 'sklearn', 'starlette'}"
    program = f"import sys, pini_jax.predict; print({slow} & set(sys.modules))"
    assert pini(program=program).stdout == "set()\n"
    program = "import sys, pini_jax.use.estimator; print('orbax' in sys.modules)"
    assert pini(program=program).stdout == "False\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_row_is_a_command_that_begins_as_its_list_says(name):
    command = importlib.import_module(cli.COMMANDS[name]).COMMAND
    assert isinstance(command, Command) and command.name == f"pini {name}"
    assert command.text.startswith(cli.first_line(cli.COMMANDS[name])) and f"\n    pini {name} " in command.text


def test_those_that_can_be_stopped_are_those_whose_modules_listen():
    sources = {name: importlib.util.find_spec(module).origin for name, module in cli.COMMANDS.items()}
    listening = [name for name, file in sources.items() if "stop.listen()" in Path(file).read_text()]
    assert listening == list(cli.STOPPABLE)


def test_the_version():
    assert pini("--version").stdout == f"{pini_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "error: there is no command 'trian'; did you mean 'train'?"),
        ([], "error: name a command; known: train, predict"),
        (["train", "--wrokdir=x"], "error: Unknown command line flag 'wrokdir'. Did you mean: workdir ?"),
        (["predict", "--workdir=x", "--clpi=y", "a.png"], "error: Unknown command line flag 'clpi'"),
        (["report"], "error: name one FOLDER or more"),
        (["sweep", "--config=digits", "--workdir=x", "--shots=a"], "error: flag --shots=['a']: must be whole"),
    ],
    ids=" ".join,
)
def test_a_usage_error_is_one_line_and_status_2(arguments, line):
    done = pini(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1


def test_a_config_imports_what_lies_in_the_current_folder(tmp_path):
    """As with `python -m`, though a script's own folder is another one."""
    (tmp_path / "mine.py").write_text("DATASET = 'digts'\n")
    program = "import mine\nfrom pini_jax import config\ndef get_config():\n    c = config.default()\n"
    (tmp_path / "own.py").write_text(program + "    c.dataset = mine.DATASET\n    return c\n")
    script = tmp_path / "bin" / "pini"
    script.parent.mkdir()
    script.write_text("from pini_jax import cli; cli.main()")
    environment = os.environ | {"PYTHONPATH": str(Path(pini_jax.__file__).parents[1])}
    for door in [str(script), "train"], ["-m", "pini_jax.main"]:
        command = [sys.executable, *door, "--config=own.py", "--workdir=run"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "did you mean 'digits'?" in done.stderr, done.stderr
