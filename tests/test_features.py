"""Image features, and the cache that holds them under everything that shaped them."""

import dataclasses
import io
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clips
from PIL import Image

from pini_jax import mesh
from pini_jax.data import features, transforms
from pini_jax.data.records import Record
from pini_jax.data.transforms import Augment


def png(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (14, 17, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


RECORDS = tuple(Record(f"images/{i}", png(i), i % 3) for i in range(7))


@pytest.fixture(scope="module")
def clip():
    return tiny_clips.load()


@pytest.fixture(scope="module")
def encoder(clip):
    return features.make_encoder(clip, mesh.make())


class Counting:
    """An encoder that says how many images it was given."""

    def __init__(self, encoder):
        self.encoder, self.images = encoder, 0

    def __call__(self, pixels):
        self.images += len(pixels)
        return self.encoder(pixels)


@pytest.fixture
def encode(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Counting(encoder)


def entries(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.npz"))


def test_features_are_those_of_the_tower(clip, encode):
    found = features.features(RECORDS, clip, encode)
    assert found.shape == (7, clip.embed_dim) and found.dtype == np.float32
    images = [Image.open(io.BytesIO(record.source)) for record in RECORDS]
    pixels = np.stack([transforms.test_view(image, clip.preprocessing) for image in images])
    pixels = clip.preprocessing.normalise(pixels)
    expected = tiny_clips.run_stage(clip.image_tower, "__call__", clip.theta["image"], pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_training_views_are_numbered_by_image(clip, encode):
    """Image i of the selection gets the view of (seed, view, i), as fresh views do."""
    found = features.features(RECORDS, clip, encode, Augment(), seed=3, view=5)
    for i, record in enumerate(RECORDS):
        pixels = features.view_pixels(record, clip, Augment(), 3, 5, i)[None]
        np.testing.assert_allclose(found[i], encode(clip.preprocessing.normalise(pixels))[0], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_the_batch_size_changes_nothing(clip, encode, tmp_path, monkeypatch, batch):
    expected = features.features(RECORDS, clip, encode, Augment(), seed=1)
    entries(tmp_path)[0].unlink()
    monkeypatch.setattr(features, "BATCH", batch)
    found = features.features(RECORDS, clip, encode, Augment(), seed=1)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_second_call_reads_the_cache(clip, encode, tmp_path):
    first = features.features(RECORDS, clip, encode)
    images = encode.images
    np.testing.assert_array_equal(features.features(RECORDS, clip, encode), first)
    assert encode.images == images
    assert len(entries(tmp_path)) == 1
    assert not list((tmp_path / "cache").rglob("*.partial"))


def other_dtype(clip):
    return dataclasses.replace(clip, image_tower=dataclasses.replace(clip.image_tower, dtype=jnp.bfloat16))


def other_preprocessing(clip, **changed):
    return dataclasses.replace(clip, preprocessing=dataclasses.replace(clip.preprocessing, **changed))


# What changes -> the call with that change.
CHANGES = {
    "weights": lambda x: x | {"clip": dataclasses.replace(x["clip"], fingerprint="other")},
    "dtype": lambda x: x | {"clip": other_dtype(x["clip"])},
    "mean": lambda x: x | {"clip": other_preprocessing(x["clip"], mean=(0.1, 0.2, 0.3))},
    "filter": lambda x: x | {"clip": other_preprocessing(x["clip"], resample=2)},
    "crop": lambda x: x | {"augment": Augment(scale=(0.5, 1.0))},
    "flip": lambda x: x | {"augment": Augment(flip=0.1)},
    "no augmentation": lambda x: x | {"augment": None},
    "seed": lambda x: x | {"seed": 2},
    "view": lambda x: x | {"view": 2},
    "order": lambda x: x | {"records": x["records"][::-1]},
    "fewer images": lambda x: x | {"records": x["records"][:-1]},
    "an image": lambda x: x | {"records": (*x["records"][:-1], x["records"][-1]._replace(source=png(99)))},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_shapes_the_features_makes_another_entry(clip, encode, tmp_path, change):
    call = {"records": RECORDS, "clip": clip, "augment": Augment(), "seed": 1, "view": 1}
    features.features(encode=encode, **call)
    images = encode.images
    features.features(encode=encode, **CHANGES[change](call))
    assert encode.images > images
    assert len(entries(tmp_path)) == 2


def test_evaluation_views_are_the_same_for_every_seed(clip, encode):
    features.features(RECORDS, clip, encode, seed=1)
    images = encode.images
    features.features(RECORDS, clip, encode, seed=2)
    assert encode.images == images


def test_an_image_file_that_changes_is_read_again(clip, encode, tmp_path):
    file = tmp_path / "image.png"
    record = Record("image", file, 0)
    file.write_bytes(png(0))
    first = features.features([record], clip, encode)
    file.write_bytes(png(1))
    os.utime(file, ns=(1, 1))  # clocks may be coarse
    assert (features.features([record], clip, encode) != first).any()


def flip_last_feature(path):
    with np.load(path) as file:
        content = dict(file)
    content["features"][-1, -1] += 1
    np.savez(path, **content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "text": lambda path: path.write_text("no zip"),
    "other numbers": flip_last_feature,
    "other arrays": lambda path: np.savez(path, numbers=np.ones(3)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_computed_again(clip, encode, tmp_path, caplog, damage):
    caplog.set_level(logging.WARNING)
    first = features.features(RECORDS, clip, encode)
    assert not caplog.records
    (path,) = entries(tmp_path)
    DAMAGE[damage](path)
    np.testing.assert_array_equal(features.features(RECORDS, clip, encode), first)
    assert str(path) in caplog.text and "damaged" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(features.features(RECORDS, clip, encode), first)
    assert not caplog.records  # the entry is whole again


@pytest.mark.parametrize("folder", ["/proc/none", "/dev/null/none"], ids=["read only", "under a file"])
def test_without_a_writable_cache_the_run_goes_on(clip, encode, monkeypatch, caplog, folder):
    caplog.set_level(logging.WARNING)
    first = features.features(RECORDS, clip, encode)
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    np.testing.assert_array_equal(features.features(RECORDS, clip, encode), first)
    assert "could not be cached" in caplog.text


def test_the_encoder_is_the_tower_on_every_device(clip, encoder):
    pixels = np.zeros((jax.device_count(), 12, 12, 3), np.float32)
    expected = tiny_clips.run_stage(clip.image_tower, "__call__", clip.theta["image"], pixels)
    np.testing.assert_allclose(encoder(pixels), expected, atol=1e-5)
