"""A run on an S3 server that is killed and started again by another process: the bits of one on a disk."""

import os
import signal
import subprocess
import sys
import time

import emulators
import pytest
from safetensors.numpy import load_file

from pini_jax.core.bucket import open_bucket
from pini_jax.runs import staged

pytestmark = pytest.mark.long
CONFIG = "--config=digits:method=task_res,shots=1,views=1,optim.epochs=60,checkpoint_every=20,num_draws=2"


def train(workdir):
    """In a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "pini_jax.main", CONFIG, f"--workdir={workdir}"])


def test_killed_and_started_again(tmp_path):
    assert train(tmp_path / "disk").wait() == 0
    with emulators.bucket("s3") as bucket:
        url, place = f"{bucket}/run", open_bucket(f"{bucket}/run")
        first = train(url)
        while first.poll() is None and not [key for key in place.below(staged.OWN).objects() if "manifest" in key]:
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL and place.read("result.json") is None
        assert train(url).wait() == 0
        for name in ("metrics.jsonl", "config.json", "selection.json", "predictions.parquet"):
            assert place.read(name) == (tmp_path / "disk" / name).read_bytes()
        place.get("injector.safetensors", tmp_path / "injector.safetensors")
    ours, theirs = (load_file(x / "injector.safetensors") for x in (tmp_path, tmp_path / "disk"))
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in theirs)
