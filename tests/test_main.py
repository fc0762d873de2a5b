"""The command line: what is typed wrong is one line."""

import signal
import subprocess
import sys
import time

import commands
import pytest
from absl import flags

from pini_jax import main
from pini_jax.core import command
from pini_jax.core.errors import UsageError

LINES = {
    ("--config=configs/nothing.py", "--workdir=run"): "no config file 'configs/nothing.py'",
    ("--config=configs/digits.py:shts=4", "--workdir=run"): "did you mean 'shots'?",
    ("--config=configs/digits.py:shots=abc", "--workdir=run"): "shots is of type int",
    ("--config=configs/digits.py", "--workdir=run", "--config.shts=4"): 'Did you mean "shots"',
    ("--config=configs/digits.py", "--workdir=run", "--config.shots=abc"): "'abc'",
    ("--config=configs/digits.py", "--workdir="): "--workdir must be given",
    ("--workdir=run",): "--config must be given",
    (): "--config and --workdir must be given; see pini train --help",
    ("--config=configs/digits.py", "--workdir=run", "--wrokdir=x"): "wrokdir",
    ("digits", "--config=configs/digits.py", "--workdir=run"): "'digits' is no flag",
}


@pytest.mark.parametrize("arguments", LINES, ids=" ".join)
def test_what_is_typed_wrong_is_told(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pini train", *arguments])
    values = flags.FlagValues()
    main.define_flags(values)
    with pytest.raises(UsageError) as error:
        command.parse(main.COMMAND, values)
    assert LINES[arguments] in str(error.value)


@pytest.mark.parametrize(("setting", "status"), [("--config.shts=4", 2), ("--config.shots=0", 1)])
def test_an_error_is_one_line(setting, status):
    """What no flag can be is a usage error; what no run can be is an error."""
    arguments = ["--config=configs/digits.py", "--workdir=run", setting]
    done = subprocess.run([sys.executable, "-m", "pini_jax.main", *arguments], capture_output=True, text=True)
    assert done.returncode == status and not done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and "shots" in line


def test_an_interrupt_is_one_line(tmp_path):
    process = commands.start(tmp_path, "--config.optim.epochs=2000")
    while process.poll() is None and not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 42 and "Traceback" not in output
    assert output.rstrip().endswith("stopped: everything is saved, and the same command goes on from there")
