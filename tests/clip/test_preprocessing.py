"""preprocessor_config.json and open_clip_config.json in all their spellings, and normalisation."""

import dataclasses
import json

import numpy as np
import pytest

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.core.errors import InputError

CUSTOM = Preprocessing(size=30, crop=28, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resample=2)
SQUASHED = dataclasses.replace(CUSTOM, size=28, squash=True)
HALF = (0.5, 0.5, 0.5)
SIGLIP = Preprocessing(mean=HALF, std=HALF, squash=True)

# As their authors published them, but for the order of keys.
OPENAI_FILE = """{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224}"""
SIGLIP_FILE = """{"do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SiglipProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224}}"""
SIGLIP2_FILE = """{"do_convert_rgb": null, "do_normalize": true, "do_rescale": true, "do_resize": true,
    "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SiglipProcessor", "resample": 2, "rescale_factor": 0.00392156862745098,
    "size": {"height": 256, "width": 256}}"""
FLEXIBLE_FILE = """{"data_format": "channels_first", "default_to_square": true, "device": null,
    "do_center_crop": null, "crop_size": null, "do_convert_rgb": null, "do_normalize": true, "do_rescale": true,
    "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "Siglip2ImageProcessorFast",
    "image_std": [0.5, 0.5, 0.5], "max_num_patches": 256, "patch_size": 16, "processor_class": "Siglip2Processor",
    "resample": 2, "rescale_factor": 0.00392156862745098, "size": null}"""


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (OPENAI_FILE, Preprocessing()),
        (SIGLIP_FILE, SIGLIP),
        (SIGLIP2_FILE, dataclasses.replace(SIGLIP, size=256, crop=256, resample=2)),
        (FLEXIBLE_FILE, dataclasses.replace(SIGLIP, size=256, crop=256, resample=2)),
    ],
    ids=["CLIP", "SigLIP", "SigLIP 2", "SigLIP 2, flexible"],
)
def test_published_files(file, expected):
    assert Preprocessing.from_hugging_face(json.loads(file)) == expected
    assert Preprocessing.from_hugging_face({"image_processor": json.loads(file)}) == expected


@pytest.mark.parametrize(
    "preprocessing",
    [CUSTOM, SQUASHED, dataclasses.replace(CUSTOM, squash=True), dataclasses.replace(CUSTOM, size=20, resample=0)],
    ids=["shortest edge", "squash", "squash and crop", "padding, nearest pixel"],
)
def test_round_trip(preprocessing):
    written = json.loads(json.dumps(preprocessing.to_hugging_face()))
    assert Preprocessing.from_hugging_face(written) == preprocessing


@pytest.mark.parametrize("name", ["CLIPImageProcessor", "SiglipImageProcessor"])
def test_what_transformers_writes_is_read(name):
    """Its own defaults, and what it makes of our file: also when only a name is left of it."""
    processor = getattr(pytest.importorskip("transformers"), name + "Pil")
    for made in (processor(), processor(**(SQUASHED if "Sig" in name else CUSTOM).to_hugging_face())):
        ours = Preprocessing.from_hugging_face(json.loads(made.to_json_string()))
        assert ours.size == (made.size["height"] if ours.squash else made.size["shortest_edge"])
        assert ours.crop == (made.size if ours.squash else made.crop_size)["height"]
        assert ours.mean == pytest.approx(made.image_mean)
        assert ours.std == pytest.approx(made.image_std)
        assert ours.resample == int(made.resample)
    assert Preprocessing.from_hugging_face({"image_processor_type": name}) == Preprocessing.from_hugging_face(
        json.loads(processor().to_json_string())
    )


@pytest.mark.parametrize("processor", ["CLIP", "Siglip", "Siglip2"])
@pytest.mark.parametrize(
    "suffix", ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"]
)
def test_null_is_the_processors_own_default(processor, suffix):
    keys = ("size", "image_mean", "image_std", "resample", "do_resize", "rescale_factor", "patch_size", "do_pad")
    nothing = {"image_processor_type": processor + suffix} | dict.fromkeys(keys)
    expected = {"CLIP": Preprocessing(), "Siglip": SIGLIP}
    expected["Siglip2"] = dataclasses.replace(SIGLIP, size=256, crop=256, resample=2)
    assert Preprocessing.from_hugging_face(nothing) == expected[processor]


def test_flexible_images_have_neither_size_nor_crop():
    """Siglip2ImageProcessor reads neither, so that a file may say anything."""
    file = json.loads(FLEXIBLE_FILE) | {"size": {"height": 224, "width": 224}, "do_center_crop": True}
    file |= {"patch_size": 14, "max_num_patches": 80, "crop_size": 200}
    assert Preprocessing.from_hugging_face(file) == Preprocessing(112, 112, HALF, HALF, resample=2, squash=True)


def test_a_file_without_a_name_shows_whose_it_is():
    square = {"height": 64, "width": 64}
    assert Preprocessing.from_hugging_face({}) == Preprocessing()
    assert Preprocessing.from_hugging_face({"size": square}) == SIGLIP.at(64)
    cropped = Preprocessing.from_hugging_face({"size": square, "crop_size": 56})
    assert cropped == Preprocessing(size=64, crop=56, squash=True)


@pytest.mark.parametrize("size", [30, {"shortest_edge": 30}, {"shortest_edge": 30, "longest_edge": None}], ids=str)
@pytest.mark.parametrize("crop", [28, {"height": 28, "width": 28}, [28, 28]], ids=str)
def test_sizes_as_numbers_or_mappings(size, crop):
    """Files of different years spell them differently."""
    read = Preprocessing.from_hugging_face(CUSTOM.to_hugging_face() | {"size": size, "crop_size": crop})
    assert read == CUSTOM


def test_clip_without_a_crop():
    squashed = {"size": {"height": 30, "width": 30}, "do_center_crop": False}
    read = Preprocessing.from_hugging_face(CUSTOM.to_hugging_face() | squashed)
    assert read == dataclasses.replace(CUSTOM, crop=30, squash=True)


WRONG = {
    "size": [
        0,
        -1,
        "224",
        224.5,
        True,
        {},
        {"shortest_edge": "30"},
        {"height": 30, "width": 28},
        [30],
        {"height": 30},
    ]
    + [{"shortest_edge": 30, "longest_edge": 40}, {"longest_edge": 40}],
    "crop_size": [0, -1, "28", 28.5, {}, {"height": 28, "width": 30}, {"shortest_edge": 28}, [28, 30], []],
    "image_mean": [[0.5, 0.5], "0.5", [0.5, 0.5, "0.5"], [0.5, 0.5, None], [0.5, 0.5, float("nan")], {}, True],
    "image_std": [[0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.5, -0.5], 0, [0.5, 0.5, float("inf")], "0.5"],
    "resample": ["bicubic", 6, -1, 2.5, True, [3]],
    "do_resize": [False, "no"],
    "do_center_crop": [False, "yes", 1],
    "do_rescale": [False],
    "do_normalize": [False],
    "do_pad": [True],
    "rescale_factor": [1.0, 0, "1/255"],
    "image_processor_type": ["ViTImageProcessor", "CLIP", 3, ["CLIPImageProcessor"]],
    "image_processor": ["CLIPImageProcessor"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_other_values_are_refused_by_name(key, value):
    with pytest.raises(InputError, match=r"processor_config.json.*" + key):
        Preprocessing.from_hugging_face(CUSTOM.to_hugging_face() | {key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("patch_size", 0), ("max_num_patches", "256"), ("max_num_patches", -1)]
)
def test_patches_are_counted_in_whole_numbers(key, value):
    with pytest.raises(InputError, match=key):
        Preprocessing.from_hugging_face(json.loads(FLEXIBLE_FILE) | {key: value})


@pytest.mark.parametrize("config", [None, [], "CLIPImageProcessor", 3])
def test_a_file_must_hold_an_object(config):
    with pytest.raises(InputError, match="must be an object"):
        Preprocessing.from_hugging_face(config)
    with pytest.raises(InputError, match="must be an object"):
        Preprocessing.from_open_clip(config, 224)


# ------------------------------------------------------------------------------------------------ OpenCLIP

OPEN_CLIP = {
    "nothing": ({}, Preprocessing()),
    "null": ({"mean": None, "std": None, "interpolation": None, "resize_mode": None}, Preprocessing()),
    "LAION": ({"mean": list(Preprocessing().mean), "std": list(Preprocessing().std)}, Preprocessing()),
    "SigLIP": (
        {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
        SIGLIP,
    ),
    "MobileCLIP": (
        {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear", "resize_mode": "shortest"},
        Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, resample=2),
    ),
    "one number": ({"mean": 0.5, "std": 0.5, "resize_mode": "squash"}, SIGLIP),
    "random": ({"interpolation": "random", "mode": "RGB", "fill_color": 0, "size": 512}, Preprocessing()),
}


@pytest.mark.parametrize("case", OPEN_CLIP)
@pytest.mark.parametrize("image_size", [224, 336])
def test_preprocess_cfg_of_open_clip(case, image_size):
    settings, expected = OPEN_CLIP[case]
    assert Preprocessing.from_open_clip(settings, image_size) == expected.at(image_size)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resize_mode", "longest"),
        ("resize_mode", 1),
        ("interpolation", "nearest"),
        ("interpolation", ["bicubic"]),
        ("mean", [0.5]),
        ("std", 0),
        ("mode", "L"),
    ],
)
def test_other_values_of_preprocess_cfg_are_refused(key, value):
    with pytest.raises(InputError, match=rf"open_clip_config.json: preprocess_cfg.{key} must be"):
        Preprocessing.from_open_clip({key: value}, 224)


# ------------------------------------------------------------------------------------------------ resolution


def test_another_resolution_scales_the_size_with_the_crop():
    assert Preprocessing().at(336) == Preprocessing(size=336, crop=336)
    assert CUSTOM.at(56) == dataclasses.replace(CUSTOM, size=60, crop=56)
    assert Preprocessing(size=256).at(300) == Preprocessing(size=343, crop=300)  # 342.86
    assert CUSTOM.at(28) == CUSTOM


@pytest.mark.parametrize("size", [0, -224, 224.0, "224", True, None])
def test_a_resolution_is_a_whole_number(size):
    for change in (CUSTOM.at, lambda side: Preprocessing.from_open_clip({}, side)):
        with pytest.raises(InputError, match="image size must be a whole number"):
            change(size)


# ------------------------------------------------------------------------------------------------ normalisation


@pytest.mark.parametrize("std", [(0.4, 0.5, 0.6), (0.01, 0.001, 2.0)])
def test_normalise_equals_transformers(std):
    """To the last bit: small deviations leave no room for another rounding."""
    ours = dataclasses.replace(CUSTOM, std=std)
    processor = pytest.importorskip("transformers").CLIPImageProcessorPil(**ours.to_hugging_face())
    images = np.arange(768).astype(np.uint8).reshape(2, 8, 16, 3)
    theirs = processor(list(images), return_tensors="np", do_resize=False, do_center_crop=False)["pixel_values"]
    normalised = ours.normalise(images)
    assert normalised.dtype == np.float32
    np.testing.assert_array_equal(normalised, theirs.transpose(0, 2, 3, 1))


def test_normalise_by_hand():
    pixel = CUSTOM.normalise(np.array([[[0, 51, 255]]], np.uint8))
    np.testing.assert_allclose(pixel[0, 0], [-0.1 / 0.4, 0.0, 0.7 / 0.6], atol=1e-6)
