"""The command line: what is typed wrong is one line."""

import signal
import subprocess
import sys
import time

import commands
import pytest

LINES = {
    ("--config=configs/nothing.py", "--workdir=run"): "No such file or directory: 'configs/nothing.py'",
    ("--config=configs/digits.py:shts=4", "--workdir=run"): "did you mean 'shots'?",
    ("--config=configs/digits.py:shots=abc", "--workdir=run"): "cannot be casted to type <class 'int'>",
    ("--config=configs/digits.py", "--workdir=run", "--config.shts=4"): 'Did you mean "shots"',
    ("--config=configs/digits.py", "--workdir=run", "--config.shots=abc"): "'abc'",
    ("--config=configs/digits.py", "--workdir="): "must name a folder",
    ("--workdir=run",): "--config must have a value",
    ("--config=configs/digits.py", "--workdir=run", "--wrokdir=x"): "wrokdir",
}


@pytest.mark.parametrize("arguments", LINES, ids=" ".join)
def test_one_line_for_what_is_typed_wrong(arguments):
    done = subprocess.run([sys.executable, "-m", "pini_jax.main", *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and LINES[arguments] in line


def test_an_interrupt_is_one_line(tmp_path):
    process = commands.start(tmp_path, "--config.optim.epochs=2000")
    while process.poll() is None and not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 42 and "Traceback" not in output
    assert output.rstrip().endswith("stopped: everything is saved, and the same command goes on from there")
