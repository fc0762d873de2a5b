"""Many processes with one folder, one cache of features, one cache of programs; and damage in these caches.

make test-long
"""

import random
import re
import shutil

import commands
import pytest

pytestmark = pytest.mark.long

SETTINGS = ("--config.optim.epochs=20",)
COUNTS = (2, 8)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    commands.make_cache(folder / "cache", shared=False)
    commands.finish(commands.start(folder / "run", *SETTINGS, environment=cache_of(folder)))
    return folder


def cache_of(folder):
    return {"XDG_CACHE_HOME": str(folder / "cache")}


@pytest.mark.parametrize("count", COUNTS)
def test_one_workdir(undisturbed, tmp_path, count):
    """One writes, and the others say who it is, or that it is done."""
    commands.make_cache(tmp_path / "cache")
    job = [commands.start(tmp_path / "run", *SETTINGS, environment=cache_of(tmp_path)) for _ in range(count)]
    outputs = {process.pid: process.communicate()[0] for process in job}
    for process in job:
        if process.returncode:
            holder = re.search(r"error: .* is being written by process (\d+) on ", outputs[process.pid])
            assert process.returncode == 1 and holder and int(holder[1]) in outputs, outputs[process.pid]
    assert [process.returncode for process in job].count(0) >= 1
    assert commands.content(tmp_path / "run") == commands.content(undisturbed / "run")


@pytest.mark.parametrize("count", COUNTS)
def test_one_cache(undisturbed, tmp_path, count):
    """Empty, of features and of programs: all read and write it at the same time, and none is wrong."""
    commands.make_cache(tmp_path / "cache", shared=False)
    job = [commands.start(tmp_path / str(i), *SETTINGS, environment=cache_of(tmp_path)) for i in range(count)]
    for i, process in enumerate(job):
        commands.finish(process)
        assert commands.content(tmp_path / str(i)) == commands.content(undisturbed / "run")


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def flip(content, chance):
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def overwrite(content, chance):
    at = chance.randrange(len(content))
    return content[:at] + chance.randbytes(min(512, len(content) - at)) + content[at + 512 :]


@pytest.mark.parametrize("damage", [cut, flip, overwrite])
@pytest.mark.parametrize("kind", ["features", "programs"])
def test_damaged_cache(undisturbed, tmp_path, kind, damage):
    """Every file of it, over and over: the result is the same."""
    chance = random.Random(0)
    shutil.copytree(undisturbed / "cache", tmp_path / "cache")
    for i in range(3):
        files = [file for file in (tmp_path / "cache" / "pini_jax" / kind).rglob("*") if file.is_file()]
        assert files
        for file in files:
            if file.stat().st_size:
                file.write_bytes(damage(file.read_bytes(), chance))
        output = commands.finish(commands.start(tmp_path / str(i), *SETTINGS, environment=cache_of(tmp_path)))
        assert "Traceback" not in output
        assert commands.content(tmp_path / str(i)) == commands.content(undisturbed / "run")
