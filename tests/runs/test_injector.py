"""The injector as one file."""

import json
import resource

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pini_jax import config as configs
from pini_jax.core.errors import InputError
from pini_jax.evaluate.doubt import Doubt
from pini_jax.methods.method import Variables
from pini_jax.runs import injector as export

PHI = {
    "prompt_tokens": {"mean": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.ones((2, 3), np.float32)},
    "image_features": {"query": {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}},
}
BUFFERS = {"pixels": {"batch_stats": {"stem": {"norm": {"mean": np.arange(3, dtype=np.float32)}}}}}
VARIABLES = Variables(PHI, BUFFERS)
CONFIG = configs.resolve({"seed": 7, "augment": {"scale": (0.5, 1.0)}})
NAMES = ("cat", "naïve 猫")


@pytest.fixture
def path(tmp_path):
    export.save_injector(tmp_path / "injector.safetensors", export.Exported(VARIABLES, CONFIG, NAMES, "ab" * 32))
    return tmp_path / "injector.safetensors"


def test_round_trip(path):
    found = export.load_injector(path)
    assert jax.tree.structure(found.variables) == jax.tree.structure(VARIABLES)
    jax.tree.map(np.testing.assert_array_equal, found.variables, VARIABLES)
    assert (found.config, found.class_names, found.clip_sha256) == (CONFIG, NAMES, "ab" * 32)


def test_doubts_come_back(tmp_path):
    """With what is not finite, which JSON does not know; and they are covered by the hash."""
    doubts = {"mean": Doubt(1.7, 0.9, known=-2.0, images=40), "sample": Doubt()}
    path = tmp_path / "i"
    export.save_injector(path, export.Exported(VARIABLES, CONFIG, NAMES, "", doubts=doubts))
    assert export.load_injector(path).doubts == doubts
    change(path, doubts={"mean": {"temperature": 1.0}})
    with pytest.raises(InputError, match="does not match its hash"):
        export.load_injector(path)


def test_a_transposed_parameter_keeps_its_order(tmp_path):
    """safetensors writes memory as it lies, so a view must be made contiguous."""
    phi = {"site": {"mean": np.arange(6, dtype=np.float32).reshape(2, 3).T}}
    export.save_injector(tmp_path / "i", export.Exported(Variables(phi), CONFIG, NAMES, ""))
    found = export.load_injector(tmp_path / "i").variables
    np.testing.assert_array_equal(found.phi["site"]["mean"], phi["site"]["mean"])
    assert found.buffers == {}


def test_a_number_stays_one(tmp_path):
    """An array of no axes, as a method's factor is."""
    export.save_injector(
        tmp_path / "i", export.Exported(Variables({"factor": np.array(0.25, np.float32)}), CONFIG, NAMES, "")
    )
    found = export.load_injector(tmp_path / "i").variables.phi["factor"]
    assert found.shape == () and found == 0.25


def test_nothing_else_is_left_in_the_folder(path):
    export.save_injector(path, export.Exported(VARIABLES, CONFIG, NAMES, "cd" * 32))
    assert list(path.parent.iterdir()) == [path]
    assert export.load_injector(path).clip_sha256 == "cd" * 32


def test_a_failed_write_leaves_the_file_before_it(path):
    """On a full disk, simulated by the largest size that a file may have."""
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(OSError):
            export.save_injector(path, export.Exported(VARIABLES, CONFIG, NAMES, "cd" * 32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def describe(path, text):
    """Rewrites what the file says of itself."""
    save_file(load_file(path), path, {export.KEY: text})


def change(path, **changes):
    with safe_open(path, framework="np") as file:
        described = json.loads(file.metadata()[export.KEY]) | changes
    describe(path, json.dumps({key: value for key, value in described.items() if value is not None}))


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no safetensors"),
    "other tensors": lambda path: save_file(PHI["prompt_tokens"], path),
    "no class names": lambda path: change(path, class_names=None),
    "no hash": lambda path: change(path, clip_sha256=None),
    "no JSON": lambda path: describe(path, "{"),
    "another version's config": lambda path: change(path, config={"colour": 3}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_injector_is_one_clear_error(path, damage):
    DAMAGE[damage](path)
    with pytest.raises(InputError):
        export.load_injector(path)
