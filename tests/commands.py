"""Runs of the command line in processes of their own, as a user starts them."""

import json
import os
import subprocess
import sys

# Many checkpoints and few steps: 40 images, two steps per epoch.
SHORT = (
    "--config=configs/digits.py",
    "--config.shots=4",
    "--config.batch_size=16",
    "--config.views=2",
    "--config.optim.epochs=100",
    "--config.log_every=10",
    "--config.checkpoint_every=10",
    "--config.num_draws=4",
)
TIMINGS = ("seconds", "steps_per_second", "device", "seal")


def start(workdir, *overrides, devices=1, limit="true", environment=None):
    """Starts a short run; later overrides win; `limit` is a shell command that goes before."""
    devices_flag = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    environment = os.environ | devices_flag | (environment or {})
    command = [sys.executable, "-m", "pini_jax.main", *SHORT, f"--workdir={workdir}", *overrides]
    shell = ["sh", "-c", f'{limit} && exec "$@"', "sh"]
    return subprocess.Popen(
        shell + command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    """Its output, once it has ended well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def result(workdir):
    """result.json without what the clock and the machine put into it."""
    content = json.loads((workdir / "result.json").read_text())
    return {key: value for key, value in content.items() if key not in TIMINGS}
