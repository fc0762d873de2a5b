"""The same run on one device and on eight simulated ones."""

import os
import subprocess
import sys

import numpy as np
import pytest
import runs
from safetensors.numpy import load_file

from pini_jax import mesh
from pini_jax.errors import InputError

DRAWS = """
import hashlib
import jax, jax.numpy as jnp, numpy as np
from pini_jax import mesh, rng
from pini_jax.noise.gaussian import Gaussian, sample

devices = mesh.make()
gaussian = mesh.shard(devices, Gaussian(jnp.zeros((16, 24)), jnp.ones((16, 24))))
draws = jax.jit(sample, static_argnums=2)(rng.stream(rng.root(3), "train", 5), gaussian, 4)
print(jax.device_count(), hashlib.sha256(np.asarray(draws).tobytes()).hexdigest())
"""


def test_one_and_eight_devices_agree(tmp_path):
    # Rounding grows from step to step, as in any training: compared while it is still small.
    for devices in (1, 8):
        runs.finish(runs.start(tmp_path / str(devices), "--config.optim.epochs=10", devices=devices))
    one, eight = (load_file(tmp_path / str(n) / "injector.safetensors") for n in (1, 8))
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, atol=1e-5, err_msg=name)
    one, eight = (runs.result(tmp_path / str(n)) for n in (1, 8))
    for mode, values in one["test"].items():
        assert eight["test"][mode]["nll"] == pytest.approx(values["nll"], abs=1e-5)
    assert one["zero_shot"]["nll"] == pytest.approx(eight["zero_shot"]["nll"], abs=1e-5)


def test_draws_do_not_depend_on_the_devices():
    printed = []
    for devices in (1, 8):
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        done = subprocess.run([sys.executable, "-c", DRAWS], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        count, digest = done.stdout.split()
        assert int(count) == devices
        printed.append(digest)
    assert printed[0] == printed[1]


def test_batch_must_divide():
    class Three:
        size = 3

    mesh.check_divisible(Three, 6)
    with pytest.raises(InputError, match="batch_size=32 is not divisible by the 3 devices"):
        mesh.check_divisible(Three, 32)
