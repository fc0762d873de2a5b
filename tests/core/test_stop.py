"""Signals, as processes of their own get them."""

import signal
import subprocess
import sys
import threading

import pytest

from pini_jax.core import stop

# Says when it listens, and then is where the interpreter calls no handler: half an hour of C.
IN_C = """
import hashlib
from pini_jax.core import stop
stop.listen()
print("listening", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
# Asks from time to time, and ends as a command does.
ASKING = """
import sys, time
from pini_jax.core import stop
stop.listen()
print("listening", flush=True)
try:
    while True:
        stop.raise_if_requested()
        time.sleep(0.01)
except stop.Stopped:
    time.sleep(float(sys.argv[1]))
    sys.exit(stop.STATUS)
"""

# Is told to stop when all is done, while the interpreter takes itself apart.
DONE = """
import os, signal, sys
from pini_jax.core import stop
stop.listen()
print("listening", flush=True)

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(sys.argv[1])):
        kill(pid, number)

last = Last()
"""


def start(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "listening\n"
    return process


@pytest.mark.parametrize("number", stop.SIGNALS)
def test_a_signal_is_a_request(number):
    process = start(ASKING, "0")
    process.send_signal(number)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (42, "")


def test_a_second_signal_ends_a_process_that_computes_in_c():
    process = start(IN_C)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4 * stop.ECHO)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 42 and errors.startswith("stopped at once") and errors.count("\n") == 1


@pytest.mark.parametrize("number", stop.SIGNALS)
def test_what_is_done_is_not_stopped(number):
    process = start(DONE, str(int(number)))
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")


def test_an_echo_is_no_second_signal():
    """`timeout` sends one to the process, and one to its group."""
    process = start(ASKING, "1")
    for number in (signal.SIGTERM, signal.SIGUSR1):
        process.send_signal(number)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (42, "")


# Whether JAX is there when a command begins to listen.
LISTENS = """
import runpy, sys
from pini_jax.core import stop

def listen():
    print("jax" in sys.modules)
    sys.exit()

stop.listen = listen
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
COMMANDS = {
    "pini_jax.main": [],
    "pini_jax.predict": [],
    "pini_jax.reproduce": [],
    "pini_jax.launch.sweep": [],
    "pini_jax.launch.compare": [],
    "pini_jax.cli": ["train"],
}


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_listen_before_what_is_slow_to_import(module):
    command = [sys.executable, "-c", LISTENS, module, *COMMANDS[module]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


# Waits for others who do not come.
WAITING = """
import sys, time
from pini_jax.core import stop
stop.listen()
print("listening", flush=True)
with stop.waits_for_others(float(sys.argv[1])):
    time.sleep(float(sys.argv[2]))
print("on")
"""


def test_who_waits_for_others_is_not_kept():
    process = start(WAITING, "0.1", "100000")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (42, "stopped: nothing was begun\n")


def test_who_has_met_the_others_goes_on():
    """And stops where all do."""
    process = start(WAITING, "100000", "0.5")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert (process.returncode, output) == (0, "on\n")


def test_who_decides_may_be_another(monkeypatch):
    answers = iter([False, True])
    monkeypatch.setattr(stop, "_answer", stop._answer)
    stop.answer_by(lambda: next(answers))
    stop.raise_if_requested()
    with pytest.raises(stop.Stopped):
        stop.raise_if_requested()


def test_threads_cannot_listen():
    """Signals come to the main thread: another one leaves them as they are."""
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
