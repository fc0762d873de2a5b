"""The same run, and the same towers, on one device and on eight simulated ones."""

import dataclasses
import functools
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
import tiny_clips
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file

from pini_jax.clip.checkpoints import sharding, weights
from pini_jax.core import mesh
from pini_jax.core.errors import InputError
from pini_jax.core.paths import cache_folder

DRAWS = """
import hashlib
import jax, jax.numpy as jnp, numpy as np
from pini_jax.core import mesh, rng
from pini_jax.noise.gaussian import Gaussian, sample

devices = mesh.make_mesh()
gaussian = mesh.shard(devices, Gaussian(jnp.zeros((1, 16, 24)), jnp.ones((1, 16, 24))), axis=1)
draws = jax.jit(sample, static_argnums=2)(rng.stream(rng.root(3), "train", 5), gaussian, 4)
print(jax.device_count(), hashlib.sha256(np.asarray(draws).tobytes()).hexdigest())
"""


# 40 images in full batches, and pairs of devices that share one copy of the towers; 10 images, which eight devices
# fill up to 16, with several draws for each.
SETTINGS = {
    "full": ((), ("--config.model_shards=2",)),
    "filled up": (("--config.shots=1", "--config.num_samples=4"), ()),
}


def run(folder, *settings, devices):
    """What a run has learned, and its result."""
    # A cache of its own, so that eight devices do not read the features that one encoded.
    cache = folder / "cache"
    (cache / "pini_jax").mkdir(parents=True)
    (cache / "pini_jax" / "programs").symlink_to(cache_folder() / "programs")
    environment = {"XDG_CACHE_HOME": str(cache)}
    # Rounding grows from step to step, as in any training: compared while it is still small.
    short = ("--config.optim.epochs=10", *settings)
    commands.finish(commands.start(folder / "run", *short, devices=devices, environment=environment))
    return load_file(folder / "run" / "injector.safetensors"), commands.result(folder / "run")


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    """settings -> the run on one device, which tests share."""
    return functools.cache(lambda *settings: run(tmp_path_factory.mktemp("one"), *settings, devices=1))


@pytest.mark.long
@pytest.mark.parametrize("name", ["full", "filled up"])
def test_one_and_eight_devices_agree(tmp_path, on_one, name):
    settings, on_eight = SETTINGS[name]
    one, expected = on_one(*settings)
    eight, result = run(tmp_path / "eight", *settings, *on_eight, devices=8)
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, atol=1e-5, err_msg=name)
    for mode, values in expected["test"].items():
        assert result["test"][mode]["nll"] == pytest.approx(values["nll"], abs=1e-5)
    assert result["zero_shot"]["nll"] == pytest.approx(expected["zero_shot"]["nll"], abs=1e-5)


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


def test_processes_that_have_another_text_are_named(monkeypatch):
    """As they would gather what each of them hashes."""
    said = ["same", "same", "another", "same"]
    assert mesh.processes_that_differ("alone") == []
    monkeypatch.setattr(mesh.jax, "process_count", lambda: len(said))
    hashes = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in said]
    monkeypatch.setattr(mesh.multihost_utils, "process_allgather", lambda own: np.stack([own, *hashes[1:]]))
    assert mesh.processes_that_differ("same") == [2]
    assert mesh.processes_that_differ("other") == [1, 2, 3]


# The widths of a ViT-H/14, two layers deep, from a file onto every mesh. Prints what part a device holds, and how
# far the features of images and of texts are off.
TOWERS = """
import jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from flax.traverse_util import flatten_dict, unflatten_dict
from pini_jax.core import mesh, runtime
from pini_jax.clip import towers
from pini_jax.clip.checkpoints import hugging_face, sharding, tensors, weights

runtime.prepare()

def section(width, heads):
    return dict(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width, num_hidden_layers=2)

sizes = hugging_face.read_hugging_face_config(dict(
    model_type="clip",
    projection_dim=1024,
    text_config=section(1024, 16) | dict(vocab_size=64, max_position_embeddings=8),
    vision_config=section(1280, 16) | dict(image_size=28, patch_size=14),
))
rng = np.random.default_rng(0)

def draw(path, shape):
    values = rng.random(shape, np.float32) - np.float32(0.5)
    return values * np.float32(0.07) if path.endswith("kernel") else values + np.float32(path.endswith("scale"))

drawn = {path: draw(path, shape) for path, shape in weights.parameter_shapes(sizes).items()}
file = Path("FILE")
weights.save_weights(file, hugging_face.CLIP, unflatten_dict(drawn, sep="/"))
pixels, ids = rng.random((8, 28, 28, 3), np.float32), rng.integers(0, 64, (6, 8))
image = towers.image_tower(sizes, jnp.float32)
text = towers.TextTower(sizes.text, sizes.embed_dim, jnp.float32)
forward = jax.jit(lambda tower, theta, *inputs: tower.apply({"params": theta}, *inputs), static_argnums=0)
expected = None
for shards in (1, 4, 8):
    devices = mesh.make_mesh(shards)
    theta = weights.load_weights(hugging_face.CLIP, sizes, tensors.index([file]), jnp.float32, "H/14", devices)
    for path, value in flatten_dict(theta, sep="/").items():
        parts = shards if "model" in sharding.spec(devices, path, value.shape) else 1
        assert [x.data.nbytes * parts for x in value.addressable_shards] == [value.nbytes] * 8, path
        np.testing.assert_array_equal(value, drawn[path], path)
    whole = sum(drawn[path].nbytes for path in drawn)
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(theta))
    features = (
        np.asarray(forward(image, theta["image"], mesh.shard(devices, pixels))),
        np.asarray(forward(text, theta["text"], *mesh.replicate(devices, (ids, np.full(6, 7))))),
    )
    expected = expected or features
    print(held / whole, *(np.abs(x - y).max() / np.abs(y).max() for x, y in zip(features, expected)))
"""


@pytest.mark.long
def test_split_towers_give_the_same_features(tmp_path):
    """Attention heads, hidden channels and the vocabulary on devices of their own."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    code = TOWERS.replace("FILE", str(tmp_path / "model.safetensors"))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    replicated, by_four, by_eight = (map(float, line.split()) for line in done.stdout.splitlines())
    assert next(replicated) == 1 and next(by_four) < 0.3 and next(by_eight) < 0.175
    for error in (*by_four, *by_eight):
        assert 0 < error < 1e-5


# Prints what devices exchange in a training step: the kind, and the shapes.
EXCHANGED = """
import re
import jax, numpy as np, tiny_clips
from pini_jax.config import Optim
from pini_jax.core import mesh
from pini_jax.methods.method import Batch, Text
from pini_jax.methods.optim import Length
from pini_jax.task.frozen import FrozenTowers
from pini_jax.train import lanes as program
from pini_jax.train.step import Constants, init_state

clip, devices, injector = tiny_clips.load(), mesh.make_mesh(), tiny_clips.make_injector()
names = [f"cat of the {i}" for i in range(50)]
placed = FrozenTowers(clip, devices).prompts("x x the {}.", "digits", names)
text = Text(np.zeros((1, 50, clip.embed_dim), np.float32), placed)
constants = Constants(np.array(1, np.uint32), Optim(), Length(np.array(100, np.float32), np.array(4)))
theta = mesh.replicate(devices, {"text": clip.theta["text"], "logit_scale": clip.theta["logit_scale"]})
state = jax.jit(init_state, static_argnums=0)(injector, theta, text, constants)
lanes = program.stack(devices, [(state, constants)])
ones = Batch(np.ones((16, clip.embed_dim), np.float32), np.zeros(16, np.int32), np.ones(16, np.float32))
table = program.stack_batches(devices, [[ones]], 16, most=4)
step = program.compile_step(program.Fixed(devices, injector, 1, "auto", theta, text), lanes, table)
assert [x.data.shape[0] for x in placed.suffix.addressable_shards] == [len(placed.suffix) // 8] * 8
for line in step.compiled.as_text().splitlines():
    if found := re.search(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute)\\(", line):
        shapes = re.findall(r"\\[([\\d,]*)\\]", found[1])
        print(found[2], max(np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes))
"""


def test_devices_exchange_text_features_and_gradients_alone():
    """Classes are split: tokens stay where they are, and only the features of all classes come together."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]),
    }
    done = subprocess.run([sys.executable, "-c", EXCHANGED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    exchanged = [line.split() for line in done.stdout.splitlines()]
    assert 2 <= len(exchanged) <= 4 and {kind for kind, _ in exchanged} == {"all-reduce"}
    features = 50 * tiny_clips.load().embed_dim
    assert max(int(size) for _, size in exchanged) == features


class Mesh:
    """As many devices as the tests below speak of."""

    def __init__(self, data, model):
        self.shape = {"data": data, "model": model}
        self.size = data * model


def test_batch_must_divide():
    mesh.check_divisible(Mesh(3, 1), 6)
    mesh.check_divisible(Mesh(2, 3), 32)
    with pytest.raises(InputError, match="batch_size=32 is not divisible by the 3 devices"):
        mesh.check_divisible(Mesh(3, 1), 32)
    with pytest.raises(InputError, match="batch_size=32 is not divisible by the 3 groups of 2 devices"):
        mesh.check_divisible(Mesh(3, 2), 32)


def test_devices_must_divide():
    with pytest.raises(InputError, match="model_shards=3 does not divide the number of devices, 1"):
        mesh.make_mesh(3)


def test_towers_must_divide():
    sizes = tiny_clips.sizes(heads=2)  # and 96 hidden channels in the image tower, 48 in that of text
    sharding.check_shards(Mesh(4, 2), sizes)
    with pytest.raises(InputError, match="model_shards=4 does not divide the 2 heads of the text tower"):
        sharding.check_shards(Mesh(2, 4), sizes)
    wide = dataclasses.replace(sizes.image.transformer, mlp_width=97)
    sizes = dataclasses.replace(sizes, image=dataclasses.replace(sizes.image, transformer=wide))
    with pytest.raises(InputError, match="model_shards=2 does not divide the 97 MLP channels of the image tower"):
        sharding.check_shards(Mesh(4, 2), sizes)


def test_every_split_is_one_of_a_parameter():
    """No pattern of the table has gone stale, and what does not divide is not split."""
    shapes = weights.parameter_shapes(tiny_clips.sizes())
    for pattern, spec in sharding.SPECS:
        paths = [path for path in shapes if re.fullmatch(pattern, path)]
        assert paths, pattern
        assert {len(spec)} == {len(shapes[path]) for path in paths}
    odd = (2 * 260 + 1, 16)
    assert sharding.spec(Mesh(1, 2), "text/token/embedding", odd) == PartitionSpec()
    assert sharding.spec(Mesh(1, 2), "text/token/embedding", (520, 16)) == PartitionSpec("model", None)
    assert sharding.spec(Mesh(1, 2), "image/blocks_0/conv_1/conv/kernel", (3, 3, 4, 4)) == PartitionSpec()


@pytest.mark.long
def test_two_processes_are_one_run(tmp_path, on_one):
    """Each with two devices: the files are the first one's, and say the same as those of one process."""
    short = ("--config.optim.epochs=10", "--config.log_every=5", "--config.checkpoint_every=20")
    caches = [tmp_path / f"cache_{i}" for i in range(2)]
    job = commands.start_job(tmp_path / "two", *short, devices=2, caches=caches)
    first, second = (commands.finish(process) for process in job)
    assert "PiNI, mean noise" in first and "PiNI" not in second
    one, expected = on_one()
    two = load_file(tmp_path / "two" / "injector.safetensors")
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)
    for mode, values in expected["test"].items():
        assert commands.result(tmp_path / "two")["test"][mode]["nll"] == pytest.approx(values["nll"], abs=1e-5)


def test_processes_that_nobody_told_of_each_other(tmp_path):
    process = commands.start(tmp_path, "--distributed")
    output, _ = process.communicate()
    assert process.returncode == 1 and "processes of this job could not be joined" in output.splitlines()[-1]
