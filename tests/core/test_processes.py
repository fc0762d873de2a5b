"""Processes that stop together, and that see when one of them is gone."""

import random
import signal
import threading
import time

import commands
import pytest

from pini_jax.core import processes


class Client:
    """What JAX's service of keys and values does, for threads of one process."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.values.copy().items() if key.startswith(folder)]


@pytest.mark.parametrize("seed", range(5))
def test_all_stop_at_one_question(monkeypatch, seed):
    """Though they ask at different speeds, and any number of them is told to stop."""
    monkeypatch.setattr(processes, "PERIOD", 0.01)
    chance, client, count = random.Random(seed), Client(), 4
    asked = [threading.Event() for _ in range(count)]
    agreements = [processes.Agreement(client, i, count, asked[i]) for i in range(count)]
    stopped = {}

    def run(i):
        pause = chance.random() * 0.002
        stopped[i] = next(question for question in range(1, 10**6) if agreements[i]() or time.sleep(pause))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for i in chance.sample(range(count), 1 + seed % count):
        asked[i].set()
    for thread in threads:
        thread.join()
    assert len(stopped) == count and len(set(stopped.values())) == 1


def test_who_is_gone_does_not_answer():
    alive, gone = (processes.socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    peers = [
        processes.Peer(i, f"host{i}", server.getsockname()[:2]) for i, server in enumerate((alive, gone), start=1)
    ]
    gone.close()
    with alive:
        assert [peer.lives for peer in peers] == [True, False]
        for _ in range(3):
            assert peers[0].lives


def test_whom_a_process_waits_for():
    assert processes._awaited(0, 3) == "processes 1, 2"
    assert processes._awaited(0, 100).endswith("9, 10, and 89 more")
    assert "process 0 at" in processes._awaited(2, 3)
    assert processes._awaited(None, None) == "the other processes of this job"


# ------------------------------------------------------------------------------------------------ two of them

SETTINGS = ("--config.optim.epochs=50", "--config.checkpoint_every=20", "--config.num_draws=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    for process in commands.start_job(workdir, *SETTINGS):
        commands.finish(process)
    return workdir


@pytest.mark.long
def test_one_signal_stops_both(undisturbed, tmp_path):
    """What goes on from there ends as if nothing had been."""
    job = commands.start_job(tmp_path, *SETTINGS)
    commands.wait_for(job[0], (tmp_path / "checkpoints" / "20").exists)
    job[1].send_signal(signal.SIGTERM)
    for process in job:
        output, _ = process.communicate()
        assert process.returncode == 42, output
        assert output.splitlines()[-1] == commands.STOPPED, output
    for process in commands.start_job(tmp_path, *SETTINGS):
        commands.finish(process)
    assert commands.content(tmp_path) == commands.content(undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_one_says_which_is_gone(tmp_path, killed):
    job = commands.start_job(tmp_path, *SETTINGS)
    commands.wait_for(job[0], (tmp_path / "checkpoints" / "20").exists)
    job[killed].kill()
    output, _ = job[1 - killed].communicate()
    assert job[1 - killed].returncode == 1, output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and f"process {killed} on " in lines[0] and "is gone" in lines[0], output
    assert "Traceback" not in output


def fails(job):
    """What its processes say before they end with status 1."""
    for process in job:
        output, _ = process.communicate()
        assert process.returncode == 1 and "Traceback" not in output, output
        yield output


def test_what_is_wrong_in_both_is_said_by_both(tmp_path):
    for output in fails(commands.start_job(tmp_path, "--config.shots=1000")):
        assert "no class of digits has more than" in output


def test_who_has_another_config_is_named(tmp_path):
    for output in fails(commands.start_job(tmp_path, own=[("--config.seed=1",), ("--config.seed=2",)])):
        assert "error: process 1 has another config than process 0" in output
