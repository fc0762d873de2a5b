"""Image features, and the cache that holds them under everything that shaped them."""

import dataclasses
import io
import logging
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clips
from PIL import Image

from pini_jax.config import Config
from pini_jax.core import mesh
from pini_jax.core.errors import InputError
from pini_jax.data import features, transforms
from pini_jax.data import views as pixels
from pini_jax.data.datasets.records import Record
from pini_jax.data.transforms import Augment
from pini_jax.task.frozen import FrozenTowers
from pini_jax.task.run import cached_views


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
    return features.make_encoder(clip, mesh.make_mesh())


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
    views = np.stack([transforms.evaluation_view(image, clip.preprocessing) for image in images])
    expected = tiny_clips.run_stage(
        clip.image_tower, "__call__", clip.theta["image"], clip.preprocessing.normalise(views)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_training_views_are_numbered_by_image(clip, encode):
    """Image i of the selection gets the view of (seed, view, i), as fresh views do."""
    found = features.features(RECORDS, clip, encode, Augment(), seed=3, view=5)
    for i, record in enumerate(RECORDS):
        view = pixels.view_pixels(record, clip.preprocessing, Augment(), 3, 5, i)[None]
        np.testing.assert_allclose(found[i], encode(clip.preprocessing.normalise(view))[0], atol=1e-5)


def test_a_fresh_view_is_the_cached_view_of_the_same_number(clip, encode):
    """In any batch, with repeats as they are in padding."""
    frozen, views = FrozenTowers(clip, mesh.make_mesh()), cached_views(Config(views=3, seed=5))
    images = np.array([4, 0, 6, 0])
    cached = [frozen.images(RECORDS, "features", view) for view in views]
    fresh = frozen.images(RECORDS, "features", views[2], kept=False)
    assert len(fresh) == len(RECORDS)
    np.testing.assert_allclose(fresh[images], cached[2][images], atol=1e-5)
    assert (cached[1] != cached[2]).any()


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


@pytest.mark.parametrize("change", ["shape", "order"])
def test_the_same_bytes_in_another_shape_are_damaged(clip, encode, tmp_path, caplog, change):
    first = features.features(RECORDS, clip, encode)
    (path,) = entries(tmp_path)
    with np.load(path) as file:
        content = dict(file)
    array = content["features"]
    other = array.reshape(array.shape[::-1]) if change == "shape" else array[::-1]
    np.savez(path, **content | {"features": other})
    np.testing.assert_array_equal(features.features(RECORDS, clip, encode), first)
    assert "does not match its hash" in caplog.text


@pytest.mark.parametrize("value", [jnp.nan, 0])
def test_features_without_a_direction_are_refused_and_not_kept(clip, encode, tmp_path, value):
    def broken(pixels):
        return jnp.asarray(encode(pixels)).at[2].set(value)

    with pytest.raises(InputError, match="the image tower's features are zero or not finite, of: images/2$"):
        features.features(RECORDS, clip, broken)
    assert not entries(tmp_path)
    assert np.isfinite(features.features(RECORDS, clip, encode)).all()


MANY = tuple(Record(f"images/{i}", png(i), 0) for i in range(11))


@pytest.fixture
def chunks_of_four(monkeypatch):
    monkeypatch.setattr(features, "BATCH", 2)
    monkeypatch.setattr(features, "CHUNK", 2)


def interrupted(encode, after):
    """An encoder that is stopped once it has seen so many images."""

    def encoder(pixels):
        if encode.images >= after:
            raise KeyboardInterrupt
        return encode(pixels)

    return encoder


@pytest.mark.parametrize(("after", "left"), [(0, 12), (4, 12), (6, 8), (8, 8), (10, 4)])
def test_an_interrupted_extraction_goes_on_where_it_was(clip, encode, tmp_path, chunks_of_four, after, left):
    """Eleven images in chunks of four; the last batch is filled up. The device is one batch ahead of the files."""
    with pytest.raises(KeyboardInterrupt):
        features.features(MANY, clip, interrupted(encode, after), Augment(), seed=1)
    assert len(entries(tmp_path)) == 3 - left // 4
    seen = encode.images
    resumed = features.features(MANY, clip, encode, Augment(), seed=1)
    assert encode.images - seen == left
    for path in entries(tmp_path):
        path.unlink()
    np.testing.assert_array_equal(features.features(MANY, clip, encode, Augment(), seed=1), resumed)


def test_of_many_chunks_only_the_damaged_are_computed_again(clip, encode, tmp_path, caplog, chunks_of_four):
    first, seen = features.features(MANY, clip, encode), encode.images
    for path in entries(tmp_path)[::2]:
        flip_last_feature(path)
    np.testing.assert_array_equal(features.features(MANY, clip, encode), first)
    assert encode.images - seen == 4 + 4
    assert caplog.text.count("damaged") == 2


def test_a_chunk_in_the_place_of_another_is_damaged(clip, encode, tmp_path, caplog, chunks_of_four):
    first = features.features(MANY, clip, encode)
    whole, other, _ = entries(tmp_path)
    other.write_bytes(whole.read_bytes())
    np.testing.assert_array_equal(features.features(MANY, clip, encode), first)
    assert "damaged" in caplog.text


def test_no_images_have_no_features(clip, encode):
    assert features.features([], clip, encode).shape == (0, clip.embed_dim)


@pytest.mark.parametrize(
    "source", [b"no image", Path("none.png"), png(0)[:-30]], ids=["text", "missing", "cut off"]
)
@pytest.mark.parametrize("augment", [None, Augment()], ids=["evaluation", "training"])
def test_an_image_that_cannot_be_read_is_named(clip, encode, source, augment):
    records = (*RECORDS[:5], Record("cats/7.png", source, 0), *RECORDS[5:])
    with pytest.raises(InputError, match=r"^image cats/7\.png cannot be read") as caught:
        features.features(records, clip, encode, augment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["/proc/none", "/dev/null/none"], ids=["read only", "under a file"])
def test_without_a_writable_cache_the_run_goes_on(clip, encode, monkeypatch, caplog, chunks_of_four, folder):
    caplog.set_level(logging.WARNING)
    first = features.features(MANY, clip, encode)
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    np.testing.assert_array_equal(features.features(MANY, clip, encode), first)
    assert caplog.text.count("could not be cached") == 1


def test_the_encoder_is_the_tower_on_every_device(clip, encoder):
    pixels = np.zeros((jax.device_count(), 12, 12, 3), np.float32)
    expected = tiny_clips.run_stage(clip.image_tower, "__call__", clip.theta["image"], pixels)
    np.testing.assert_allclose(encoder(pixels), expected, atol=1e-5)
