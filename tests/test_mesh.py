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
from pini_jax.runtime import cache_folder

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


# 40 images in full batches; 10 images, which eight devices fill up to 16, with several draws for each.
SETTINGS = {"full": (), "filled up": ("--config.shots=1", "--config.num_samples=4")}


@pytest.mark.parametrize("name", SETTINGS)
def test_one_and_eight_devices_agree(tmp_path, monkeypatch, name):
    # Rounding grows from step to step, as in any training: compared while it is still small.
    for devices in (1, 8):
        # A cache of its own, so that eight devices do not read the features that one encoded.
        cache = tmp_path / f"cache_{devices}"
        (cache / "pini_jax").mkdir(parents=True)
        (cache / "pini_jax" / "programs").symlink_to(cache_folder() / "programs")
        with monkeypatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(cache))
            settings = "--config.optim.epochs=10", *SETTINGS[name]
            runs.finish(runs.start(tmp_path / str(devices), *settings, devices=devices))
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
