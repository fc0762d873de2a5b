"""preprocessor_config.json in all its spellings, and normalisation."""

import numpy as np
import pytest

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.errors import InputError

CUSTOM = Preprocessing(size=30, crop=28, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resample=2)


def test_round_trip():
    assert Preprocessing.from_hugging_face(CUSTOM.to_hugging_face()) == CUSTOM


def test_defaults_are_those_of_transformers():
    processor = pytest.importorskip("transformers").CLIPImageProcessorPil()
    ours = Preprocessing.from_hugging_face({})
    assert ours == Preprocessing()
    assert (ours.size, ours.crop) == (processor.size["shortest_edge"], processor.crop_size["height"])
    assert ours.mean == pytest.approx(processor.image_mean)
    assert ours.std == pytest.approx(processor.image_std)
    assert ours.resample == int(processor.resample)


@pytest.mark.parametrize("size", [30, {"shortest_edge": 30}])
@pytest.mark.parametrize("crop", [28, {"height": 28, "width": 28}])
def test_sizes_as_numbers_or_mappings(size, crop):
    """Files of different years spell them differently."""
    read = Preprocessing.from_hugging_face(CUSTOM.to_hugging_face() | {"size": size, "crop_size": crop})
    assert read == CUSTOM


@pytest.mark.parametrize(
    "settings",
    [{"size": {"height": 30, "width": 30}}, {"crop_size": {"height": 28, "width": 30}}, {"crop_size": {}}],
    ids=["no shortest edge", "oblong crop", "empty crop"],
)
def test_other_sizes_are_refused(settings):
    with pytest.raises(InputError, match="shortest_edge and a square crop_size"):
        Preprocessing.from_hugging_face(CUSTOM.to_hugging_face() | settings)


def test_normalise_equals_transformers():
    processor = pytest.importorskip("transformers").CLIPImageProcessorPil(**CUSTOM.to_hugging_face())
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), np.uint8)
    theirs = processor(list(images), return_tensors="np", do_resize=False, do_center_crop=False)["pixel_values"]
    ours = CUSTOM.normalise(images)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=1e-6)


def test_normalise_by_hand():
    pixel = CUSTOM.normalise(np.array([[[0, 51, 255]]], np.uint8))
    np.testing.assert_allclose(pixel[0, 0], [-0.1 / 0.4, 0.0, 0.7 / 0.6], atol=1e-6)
