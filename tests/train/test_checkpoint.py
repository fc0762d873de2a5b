"""Checkpoints: small, whole or not there, and never a reason to lose the one before."""

import functools
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from pini_jax import config as configs
from pini_jax.clip import prompts, towers
from pini_jax.clip.checkpoints import hugging_face
from pini_jax.config import Optim
from pini_jax.core.errors import InputError
from pini_jax.methods import optim
from pini_jax.methods import pini as injector
from pini_jax.methods.method import Text
from pini_jax.noise import sites
from pini_jax.train.checkpoint import KEEP, Checkpoints, num_bytes
from pini_jax.train.step import Constants, TrainState, init_state

CLIP = "ab" * 32
OPTIMISER = optim.optimiser(Optim(), optim.Length(epochs=100, per_epoch=4))


def make_state(step):
    """A state with other numbers in every leaf and at every step."""
    rng = np.random.default_rng(step)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    phi = {
        "prompt_tokens": {"mean": normal(5, 16), "scale": normal(5, 16)},
        "image_features": {"query": {"kernel": normal(24, 24), "bias": normal(24)}},
    }
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(step + 1, x.dtype), OPTIMISER.init(phi))
    return TrainState(jnp.int32(step), phi, opt_state)


LIKE = make_state(0)


def checkpoints(folder, clip=CLIP):
    owners = {
        "clip_sha256": clip,
        "selection_sha256": "34" * 32,
        "test_sha256": "56" * 32,
        "config_hash": "78" * 32,
    }
    return Checkpoints(folder, 4, owners, due=lambda step: step % 5 == 0)


def restore(folder, clip=CLIP):
    with checkpoints(folder, clip) as found:
        return found.restore(LIKE)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder in which steps 5, 10 and 15 were saved."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with checkpoints(folder) as made:
        for step in (5, 10, 15):
            made.save(make_state(step))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def files(folder, step):
    return sorted(file for file in (folder / str(step)).rglob("*") if file.is_file())


def test_round_trip_is_bitwise(folder):
    assert_equal(restore(folder), make_state(15))


def test_a_new_folder_holds_nothing(tmp_path):
    assert restore(tmp_path / "new") is None


def test_only_the_last_two_are_kept(folder):
    assert KEEP == 2
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["10", "15"]


def test_a_step_may_be_saved_again(folder):
    """As when a run goes on from an earlier checkpoint."""
    other = make_state(15)._replace(phi=make_state(99).phi)
    with checkpoints(folder) as found:
        found.save(other)
    assert_equal(restore(folder), other)


def test_only_trainables_optimiser_and_position_are_on_disk(folder):
    assert [path.name for path in (folder / "15").iterdir() if path.is_dir()] == ["state"]
    assert set(described(folder / "15")) == {"trainables", "optimiser", "position"}
    on_disk = sum(file.stat().st_size for file in files(folder, 15))
    # what Orbax adds does not grow with the arrays
    assert num_bytes(LIKE) < on_disk < num_bytes(LIKE) + 40_000


def described(checkpoint):
    """The tree that it holds, as Orbax says."""
    return ocp.checkpointables_metadata(checkpoint).metadata["state"]


def test_num_bytes_by_hand():
    """Two tables of 5 x 16, a layer of 24 x 24 + 24, once more for the momentum; the step, and the schedule's."""
    assert num_bytes(LIKE) == 4 * (2 * (2 * 5 * 16 + 24 * 24 + 24) + 2)


def test_buffers_are_kept_beside_what_is_trained(tmp_path):
    """And are part of the hash: those of another checkpoint are damage."""
    first, second = (with_buffers(make_state(step)) for step in (5, 10))
    with checkpoints(tmp_path) as made:
        made.save(first)
        made.save(second)
    assert set(described(tmp_path / "10")) == {"trainables", "optimiser", "position", "buffers"}
    with checkpoints(tmp_path) as found:
        assert_equal(found.restore(first), second)
    shutil.rmtree(tmp_path / "10" / "state")
    shutil.copytree(tmp_path / "5" / "state", tmp_path / "10" / "state")
    with checkpoints(tmp_path) as found:
        assert_equal(found.restore(second), first)


def with_buffers(state):
    gathered = {"norm": {"mean": jnp.full(64, state.step, jnp.float32), "var": jnp.arange(64.0)}}
    return state._replace(buffers={"pixels": {"batch_stats": {"stem": gathered}}})


@pytest.mark.parametrize(
    "said",
    [
        "Failed to write 128 bytes to file 25: No space left on device [os_error_code='28']",
        f"Failed to write: No space left on device [source locations='{'x' * 400}'] [os_error_code='28']",
        "No space left on device",  # no number of TensorStore's
    ],
)
def test_why_a_checkpoint_could_not_be_written(folder, monkeypatch, said):
    def full(*_, **__):
        raise ValueError(f"while saving\n{said}")

    with checkpoints(folder) as found:
        monkeypatch.setattr(found._checkpointer, "save_checkpointables", full)
        with pytest.raises(OSError, match=r"earlier ones are kept \(No space left on device\)$"):
            found.save(make_state(25))


def test_the_position_says_epoch_and_batch(folder):
    position = ocp.load_checkpointables(folder / "15")["state"]["position"]
    assert {key: int(value) for key, value in position.items()} == {"step": 15, "epoch": 3, "batch": 3}


def test_another_clip_is_refused(folder):
    with pytest.raises(InputError, match="belongs to another CLIP"):
        restore(folder, clip="cd" * 32)


# ------------------------------------------------------------------------------------------------ damage


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    for i in range(len(content) // 4, len(content), 50):
        content[i] ^= 0x55
    file.write_bytes(content)


DAMAGE = {"truncate": truncate, "flip": flip, "delete": lambda file: file.unlink()}


def largest(folder, step):
    return max(files(folder, step), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_and_named(folder, caplog, damage):
    caplog.set_level(logging.WARNING)
    DAMAGE[damage](largest(folder, 15))
    assert_equal(restore(folder), make_state(10))
    assert "checkpoint 15 is damaged" in caplog.text


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_damaged_file_gives_a_damaged_state(saved, tmp_path, caplog, damage):
    """File by file: the latest state, bit for bit, or the one before, with a warning."""
    caplog.set_level(logging.WARNING)
    fell_back = 0
    for i, original in enumerate(files(saved, 15)):
        if original.stat().st_size == 0:
            continue
        folder = shutil.copytree(saved, tmp_path / str(i))
        DAMAGE[damage](folder / original.relative_to(saved))
        caplog.clear()
        state = restore(folder)
        assert state is not None, original
        if int(state.step) == 15:
            assert_equal(state, make_state(15))
        else:
            fell_back += 1
            assert_equal(state, make_state(10))
            assert "checkpoint 15 is damaged" in caplog.text, original
    assert fell_back >= 3


def test_where_all_are_damaged_training_starts_again(folder, caplog):
    caplog.set_level(logging.WARNING)
    for step in (10, 15):
        flip(largest(folder, step))
    assert restore(folder) is None
    assert "checkpoint 15 is damaged" in caplog.text and "checkpoint 10 is damaged" in caplog.text
    assert "training starts again" in caplog.text


def test_content_that_reads_back_but_is_not_what_was_written(folder, caplog):
    """Two whole checkpoints, mixed: every file is sound, but the hash is another's."""
    caplog.set_level(logging.WARNING)
    shutil.rmtree(folder / "15" / "state")
    shutil.copytree(folder / "10" / "state", folder / "15" / "state")
    assert_equal(restore(folder), make_state(10))
    assert "checkpoint 15 is damaged" in caplog.text


@pytest.mark.parametrize("name", ["20.orbax-checkpoint-tmp", "20.orbax-checkpoint-tmp-1700000000", "lost+found"])
def test_leftovers_are_harmless(folder, name):
    """As a kill in the middle of a save leaves them."""
    shutil.copytree(folder / "15", folder / name)
    assert_equal(restore(folder), make_state(15))
    with checkpoints(folder) as found:
        found.save(make_state(20))
    assert_equal(restore(folder), make_state(20))


def test_a_damaged_checkpoint_does_not_stop_later_ones(folder):
    flip(largest(folder, 15))
    with checkpoints(folder) as found:
        assert int(found.restore(LIKE).step) == 10
        for step in (15, 20):
            found.save(make_state(step))
    assert_equal(restore(folder), make_state(20))


def test_the_released_configuration_on_vit_b_16_stays_under_20_mb():
    """By shapes alone: 512 channels in the text tower and in the joint space, 25 prompt tokens, 37 classes."""
    sizes = hugging_face.read_hugging_face_config({"model_type": "clip"}).text
    inject = injector.Injector(towers.TextTower(sizes, 512), sites.build_noise(configs.Config().noise))
    rows = (37, 6)
    built = prompts.Prompts(*(np.zeros(shape, np.int32) for shape in (1, 25, rows, rows, rows, 37)))
    constants = Constants(np.uint32(0), configs.Optim(), optim.Length(np.float32(100), np.int32(5)))
    text = Text(np.zeros((1, 37, 512), np.float32), built)
    state = jax.eval_shape(functools.partial(init_state, inject), {}, text, constants)
    assert sum(x.size for x in jax.tree.leaves(state.phi)) == 5 * (512 * 512 + 512) + 2 * 25 * 512
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) < 20e6
