"""Datasets of what a program holds itself."""

import io

import numpy as np
import pytest
from PIL import Image

from pini_jax.core.errors import InputError
from pini_jax.data.datasets import memory, sources
from pini_jax.data.datasets.records import open_image

PIXELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def kinds(tmp_path):
    (tmp_path / "one.png").write_bytes(png(PIXELS))
    return [PIXELS, Image.fromarray(PIXELS), png(PIXELS), tmp_path / "one.png", str(tmp_path / "one.png")]


def test_pixels_are_those_of_a_lossless_file(kinds):
    for kind in kinds:
        np.testing.assert_array_equal(np.asarray(open_image(memory.make_record(kind, 3))), PIXELS)


@pytest.mark.parametrize("mode", ("L", "1", "LA", "P", "RGBA", "I;16"))
def test_pictures_of_any_mode_are_files_of_that_mode(mode):
    picture, file = (
        Image.effect_noise((6, 5), 90).convert("RGBA" if mode == "P" else "L").convert(mode),
        io.BytesIO(),
    )
    picture.save(file, "PNG")
    of_file = np.asarray(open_image(memory.make_record(file.getvalue(), 0)))
    np.testing.assert_array_equal(np.asarray(open_image(memory.make_record(picture, 0))), of_file)


@pytest.mark.parametrize("wrong", (PIXELS.astype(float), PIXELS[0, 0], PIXELS[:0], PIXELS[..., :2], [1, "a"], 7))
def test_what_is_no_image(wrong):
    with pytest.raises(InputError, match="image number 4 is .*: paths, PIL images and uint8 arrays"):
        memory.make_record(wrong, 4)


def test_a_name_says_what_is_in_it(kinds, tmp_path):
    data = memory.image_dataset(kinds[3:4], [0], "ab")
    moved = tmp_path / "moved.png"
    moved.write_bytes(png(PIXELS))
    assert memory.image_dataset([moved], [0], "ab").name == data.name
    others = [
        memory.image_dataset([moved], [1], "ab"),
        memory.image_dataset([moved], [0], "ac"),
        memory.image_dataset([moved, moved], [0, 0], "ab"),
        memory.image_dataset([PIXELS + 1], [0], "ab"),
    ]
    assert len({data.name, *(other.name for other in others)}) == 5
    assert len({record.id for record in others[2].train}) == 2


def test_data_are_there_while_they_are_held():
    data = memory.image_dataset([PIXELS, PIXELS], [0, 1], ("cat", "dog"))
    with memory.held(data.name, data), memory.held(data.name, data):
        assert sources.load_dataset(data.name, "") == data and sources.has_images(data.name)
    with pytest.raises(InputError, match="lay in the memory of a program"):
        sources.load_dataset(data.name, "")


def test_features_become_a_pack():
    pack = memory.feature_dataset(np.array([[3, 4], [0, 2]]), [0, 1], ("cat", "dog"), np.eye(2), 50.0)
    name = pack.findings.dataset.name
    with memory.held(name, pack):
        assert sources.open_pack(name, "") is pack and not sources.has_images(name)
        assert sources.load_dataset(name, "").class_names == ("cat", "dog")
    np.testing.assert_allclose(pack.images["0"], [0.6, 0.8])
    with pytest.raises(InputError, match="X has features that are zero or not finite: X.1."):
        memory.feature_dataset(np.array([[3, 4], [0, 0]]), [0, 1], ("cat", "dog"), np.eye(2), 50.0)


def test_names_are_told_apart_and_given():
    data = memory.image_dataset([PIXELS, PIXELS], [0, 1], ("cat", "Cat"))
    with memory.held(data.name, data), pytest.raises(InputError, match="classes with one name"):
        sources.load_dataset(data.name, "")
