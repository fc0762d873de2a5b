"""Workers on one machine: what each sees of the devices, and how they end together."""

import subprocess
import sys

import pytest
from absl import flags

from pini_jax.core import stop
from pini_jax.core.errors import InputError
from pini_jax.launch import local, sweep_run
from pini_jax.launch.local import CHIPS, GPUS, environment


def devices(gpus=0, chips=0):
    return {GPUS: [*map(str, range(gpus))], CHIPS: [*map(str, range(chips))]}


@pytest.mark.parametrize(("gpus", "count"), [(8, 8), (8, 3), (2, 2), (1, 1)])
def test_every_gpu_has_one_worker(gpus, count):
    told = [environment(devices(gpus=gpus), i, count) for i in range(count)]
    seen = [gpu for own in told for gpu in own[GPUS].split(",")]
    assert sorted(seen) == sorted(map(str, range(gpus))) and all(own.keys() == {GPUS} for own in told)


def test_workers_on_one_gpu_divide_its_memory():
    told = [environment(devices(gpus=2), i, 5) for i in range(5)]
    assert [own[GPUS] for own in told] == ["0", "1", "0", "1", "0"]
    assert {own["XLA_PYTHON_CLIENT_MEM_FRACTION"] for own in told} == {"0.300"}


@pytest.mark.parametrize(("count", "bounds"), [(8, "1,1,1"), (4, "1,2,1"), (2, "2,2,1"), (1, "2,4,1")])
def test_chips_are_divided(count, bounds):
    told = [environment(devices(chips=8), i, count) for i in range(count)]
    assert sorted(chip for own in told for chip in own[CHIPS].split(",")) == sorted(map(str, range(8)))
    assert all(own["TPU_CHIPS_PER_PROCESS_BOUNDS"] == bounds for own in told)


@pytest.mark.parametrize(("chips", "count"), [(4, 8), (6, 2)])
def test_chips_that_cannot_be_divided_are_told(chips, count):
    with pytest.raises(InputError, match=f"{count} workers cannot share {chips} TPU chips"):
        environment(devices(chips=chips), 0, count)


def test_without_devices_nothing_is_set():
    assert environment(devices(), 1, 4) == {}


def test_what_a_scheduler_has_given_is_all_there_is():
    assert local.visible({GPUS: "3,5", CHIPS: "1"}) == {GPUS: ["3", "5"], CHIPS: ["1"]}


@pytest.fixture
def container(tmp_path, monkeypatch):
    """One that has been given two of a machine's eight GPUs, and two TPU chips."""
    for name in ("nvidia4", "nvidia7", "nvidiactl", "nvidia-uvm", "vfio/11", "vfio/12", "vfio/vfio"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = {
        name: {folder.replace("/dev", str(tmp_path)): pattern for folder, pattern in patterns.items()}
        for name, patterns in local.FILES.items()
    }
    monkeypatch.setattr(local, "FILES", files)


def test_devices_are_numbered_from_0_on_whatever_their_files_are_called(container):
    assert local.visible({}) == devices(gpus=2, chips=2)


def test_an_empty_list_is_no_device(container):
    """Though the machine has some."""
    assert local.visible({GPUS: "", CHIPS: ""}) == devices()


@pytest.mark.parametrize(
    ("ends", "status"), [([0, 0], 0), ([0, 1], 1), ([42, 0], 42), ([-9, 0], 0), ([-9, -9], 1)]
)
def test_a_killed_worker_is_no_failure_while_others_end_well(ends, status):
    program = f"""
import os, sys
number = int(sys.argv[1].removeprefix("--worker=").partition("/")[0])
end = {ends}[number]
os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)
"""
    assert local.run_workers([sys.executable, "-c", program], len(ends)) == status


def test_a_request_to_stop_is_passed_on(tmp_path, monkeypatch):
    program = f"""
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
pathlib.Path({str(tmp_path)!r}, sys.argv[1].replace("/", "_")).touch()
signal.pause()
"""
    monkeypatch.setattr(stop, "requested", lambda: len(list(tmp_path.iterdir())) == 2)
    assert local.run_workers([sys.executable, "-c", program], 2) == 42


def test_a_worker_that_outstays_the_grace_is_killed_and_all_are_stopped(tmp_path, monkeypatch):
    program = f"""
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.argv[1].endswith("0/2") and sys.exit(42))
pathlib.Path({str(tmp_path)!r}, sys.argv[1].replace("/", "_")).touch()
while True:
    signal.pause()
"""
    monkeypatch.setattr(local, "GRACE", 1.0)
    monkeypatch.setattr(stop, "requested", lambda: len(list(tmp_path.iterdir())) == 2)
    assert local.run_workers([sys.executable, "-c", program], 2) == stop.STATUS


KILLED = """
import os, signal, sys
if "--worker=1/2" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("wait", "status"), [("--wait", 0), ("--nowait", 1)])
def test_a_killed_worker_is_a_failure_where_others_have_left(tmp_path, monkeypatch, wait, status):
    """As `pini sweep run` starts them: nobody has taken its work over."""
    (tmp_path / "killed.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sweep_run, "MODULE", "killed")
    values = flags.FlagValues()
    sweep_run.define_flags(values)
    values(["pini", "--workdir=w", "--workers=2", wait])
    with pytest.raises(SystemExit) as ended:
        sweep_run.main(values)
    assert ended.value.code == status


def test_nobody_is_left_behind(monkeypatch):
    """Whatever ends the wait."""
    begun, start = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kwargs: begun.append(start(*args, **kwargs)) or begun[-1]
    )
    monkeypatch.setattr(stop, "requested", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        local.run_workers([sys.executable, "-c", "import signal; signal.pause()"], 2)
    assert [process.wait(60) for process in begun] == [-9, -9]
