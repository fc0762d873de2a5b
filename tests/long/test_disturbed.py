"""Kills and stops at random moments, by the hundred: what goes on from there ends as if nothing had been.

make test-long
"""

import itertools
import os
import random
import signal
import subprocess

import commands
import pytest

pytestmark = pytest.mark.long

LISTENING = 0.5  # seconds of computing, after which a process surely listens
PATIENCE = 120  # seconds until a scheduler tells the other process too
COMPARISON = ("--methods=linear_probe,text_features: table", "--shots=2", "--seeds=1,2")
POPULATION = """--config.population={"seed": (1, 2), "optim.lr": (0.001, 0.01)}"""
# What is run, how often it is killed, and how often it is stopped.
COMMANDS = {
    "run": ("pini_jax.main", ("--config.optim.epochs=60",), 40, 50),
    "population": ("pini_jax.main", ("--config.optim.epochs=30", POPULATION), 30, 10),
    "comparison": ("pini_jax.launch.compare", ("--config.optim.epochs=10", *COMPARISON), 30, 10),
}


class Command:
    """A command, which works in folders of its own and has features of its own to encode."""

    def __init__(self, folder, name, count=1):
        self.folder, self.count = folder, count
        self.module, self.overrides, self.kills, self.stops = COMMANDS[name]
        before = os.times()
        self.finish(self.start("whole"))
        after = os.times()
        used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
        self.seconds = used / count

    def start(self, name):
        cache = self.folder / f"cache_{name}"
        commands.make_cache(cache)
        environment, workdir = {"XDG_CACHE_HOME": str(cache)}, self.folder / str(name)
        if self.count > 1:
            return commands.start_job(workdir, *self.overrides, count=self.count, caches=[cache] * self.count)
        return [commands.start(workdir, *self.overrides, environment=environment, module=self.module)]

    def finish(self, processes):
        for process in processes:
            commands.finish(process)

    def contents(self, name):
        """Of all its runs."""
        runs = sorted(file.parent for file in (self.folder / str(name)).glob("**/config.json"))
        assert runs
        return {str(run.relative_to(self.folder / str(name))): commands.content(run) for run in runs}

    def disturb(self, end, number, chance):
        """Starts it again and again, and ends it at random moments: in all `number` times."""
        ended = 0
        for name in itertools.count():
            while True:
                processes = self.start(name)
                victim, moment = chance.choice(processes), chance.uniform(LISTENING, self.seconds)
                if ended < number:
                    commands.wait_for(victim, lambda v=victim, m=moment: commands.computed(v.pid) > m)
                if ended == number or victim.poll() is not None:
                    self.finish(processes)
                    break
                end(victim, processes)
                ended += 1
            assert self.contents(name) == self.contents("whole")
            print(f"{ended} of {number} in {name + 1} folders", flush=True)
            if ended == number:
                return


def kill(victim, processes):
    victim.kill()
    victim.communicate()


def stopper(chance):
    """Sends one of the signals to one process, and holds all to what a stop is."""

    def end(victim, processes):
        victim.send_signal(chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]))
        for process in processes:
            try:
                output, _ = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:  # it had not met the other one
                process.send_signal(signal.SIGTERM)
                output, _ = process.communicate()
            assert process.returncode in (0, 42), output
            assert "Traceback" not in output
            if process.returncode:
                assert output.splitlines()[-1].startswith("stopped: "), output

    return end


@pytest.mark.parametrize("name", COMMANDS)
def test_sigkill(tmp_path, name):
    command = Command(tmp_path, name)
    command.disturb(kill, command.kills, random.Random(0))


@pytest.mark.parametrize("name", COMMANDS)
def test_stop(tmp_path, name):
    chance = random.Random(1)
    command = Command(tmp_path, name)
    command.disturb(stopper(chance), command.stops, chance)


def test_stop_of_two_processes(tmp_path):
    chance = random.Random(2)
    command = Command(tmp_path, "run", count=2)
    command.disturb(stopper(chance), command.stops, chance)


def test_sigkill_of_one_of_two_processes(tmp_path):
    """The other one ends by itself, with a line that says which is gone."""

    def end(victim, processes):
        victim.kill()
        for i, process in enumerate(processes):
            output, _ = process.communicate()
            if process is not victim:
                assert process.returncode == 1, output
                assert f"error: process {1 - i} on " in output and "Traceback" not in output, output

    command = Command(tmp_path, "run", count=2)
    command.disturb(end, 10, random.Random(3))
