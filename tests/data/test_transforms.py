"""Evaluation views bit for bit as transformers', training views in distribution as torchvision's."""

import io
import math
import os
from pathlib import Path

import bounds
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.core import rng
from pini_jax.core.errors import InputError
from pini_jax.data import transforms
from pini_jax.data.transforms import Augment

CLIP = Preprocessing(size=30, crop=28)


def picture(size, mode="RGB"):
    """Noise over a gradient: every filter and every rounding shows."""
    width, height = size
    rng = np.random.default_rng(width * 1000 + height)
    ramp = np.linspace(0, 128, width)[:, None] + rng.integers(0, 128, (height, width, 4))
    return Image.fromarray(ramp.astype(np.uint8)[..., :3]).convert(mode)


# ------------------------------------------------------------------------------------------------ evaluation

SIZES = [(50, 80), (81, 50), (64, 64), (30, 30), (28, 41), (3, 5), (1, 1), (200, 31), (97, 33), (3, 200), (200, 3)]
SIZES += [(1, 50), (27, 28), (31, 30), (30, 33), (37, 30)]

# What a file may say, and transformers' processor of it.
CLIP_FILE, SIGLIP_FILE = CLIP.to_hugging_face(), Preprocessing(28, 28, squash=True, resample=2).to_hugging_face()
FILES = {
    "CLIP": CLIP_FILE,
    "CLIP, bilinear": CLIP_FILE | {"resample": 2, "size": 28},
    "CLIP, nearest": CLIP_FILE | {"resample": 0},
    "CLIP, Lanczos": CLIP_FILE | {"resample": 1},
    "odd crop": CLIP_FILE | {"crop_size": 27},
    "padding": CLIP_FILE | {"size": 20, "crop_size": 28},
    "odd padding": CLIP_FILE | {"size": 21, "crop_size": 28},
    "squash and crop": CLIP_FILE | {"size": {"height": 33, "width": 33}},
    "squash and padding": CLIP_FILE | {"size": {"height": 21, "width": 21}},
    "squash without a crop": CLIP_FILE | {"size": {"height": 33, "width": 33}, "do_center_crop": False},
    "SigLIP": SIGLIP_FILE | {"resample": 3},
    "SigLIP 2": SIGLIP_FILE,
}


def processor_of(file):
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, file["image_processor_type"] + "Pil")(**file)


def assert_same_view(processor, preprocessing, image):
    ours = transforms.evaluation_view(transforms.to_rgb(image), preprocessing)
    raw = processor(image, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"][0]
    np.testing.assert_array_equal(ours, raw.transpose(1, 2, 0))
    assert ours.dtype == np.uint8
    theirs = processor(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(preprocessing.normalise(ours), theirs.transpose(1, 2, 0), atol=1e-6)


@pytest.mark.parametrize("file", FILES)
def test_sizes_as_transformers(file):
    processor, preprocessing = processor_of(FILES[file]), Preprocessing.from_hugging_face(FILES[file])
    for size in SIZES:
        assert_same_view(processor, preprocessing, picture(size))


@pytest.mark.parametrize("file", ["CLIP", "SigLIP 2"])
def test_random_images_as_transformers(file):
    """At the size of real checkpoints, where more can round."""
    chance = np.random.default_rng(0)
    preprocessing = Preprocessing.from_hugging_face(FILES[file]).at(224)
    processor = processor_of(preprocessing.to_hugging_face())
    for size in np.exp(chance.uniform(0, 6.5, (12, 2))).astype(int).tolist():
        assert_same_view(processor, preprocessing, picture(size))


@pytest.mark.parametrize("file", ["CLIP", "SigLIP"])
def test_a_huge_image_as_transformers(file):
    preprocessing = Preprocessing.from_hugging_face(FILES[file]).at(224)
    huge = Image.fromarray(np.tile(np.asarray(picture((60, 40))), (100, 100, 1)))
    assert_same_view(processor_of(preprocessing.to_hugging_face()), preprocessing, huge)


@pytest.mark.parametrize("file", ["CLIP", "CLIP, bilinear", "odd crop", "padding", "odd padding"])
def test_slivers_as_transformers(file, monkeypatch):
    """Resized only where the crop is: as if the whole had been."""
    processor, preprocessing = processor_of(FILES[file]), Preprocessing.from_hugging_face(FILES[file])
    monkeypatch.setattr(transforms, "WHOLE", 0)
    for size in [*SIZES, (1, 500), (500, 1), (2, 333), (401, 3), (7, 9), (1, 2), (27, 27), (29, 31)]:
        assert_same_view(processor, preprocessing, picture(size))


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (2, 99999), (30000, 7)], ids=str)
def test_slivers_take_the_memory_of_what_is_kept(size):
    """The whole of the first would be 224 x 4,480,000 pixels."""
    with bounds.bounded(memory=1 << 26, seconds=5):
        assert transforms.evaluation_view(picture(size), Preprocessing()).shape == (224, 224, 3)


@pytest.mark.parametrize("resample", [0, 1, 4, 5])
def test_slivers_for_other_filters_are_refused(resample):
    with pytest.raises(InputError, match="resized for this CLIP it would be 224 x 4480000 pixels"):
        transforms.evaluation_view(picture((1, 20000)), Preprocessing(resample=resample))


def test_a_preprocessor_cannot_ask_for_any_memory():
    with bounds.bounded(memory=1 << 28):
        view = transforms.evaluation_view(picture((50, 40)), Preprocessing(size=16384, crop=224))
        assert view.shape == (224, 224, 3)
        with pytest.raises(InputError, match="16384 x 16384"):
            transforms.evaluation_view(picture((20000, 1)), Preprocessing(size=16384, crop=16384, squash=True))


def test_thousands_of_sizes_as_transformers():
    """Sizes alone, of images that need no memory."""
    theirs = pytest.importorskip("transformers.image_transforms").get_resize_output_image_size
    chance = np.random.default_rng(0)
    for _ in range(3000):
        width, height = (int(chance.integers(1, 10 ** chance.integers(1, 5))) for _ in range(2))
        shortest = int(chance.integers(1, 700))
        image = np.broadcast_to(np.uint8(0), (3, height, width))
        size = theirs(image, shortest, default_to_square=False, input_data_format="channels_first")
        ours = transforms.resized_size((width, height), Preprocessing(size=shortest))
        assert ours == size[::-1], (width, height, shortest)


@pytest.mark.parametrize("side", [1, 63, 64, 300])
@pytest.mark.parametrize("patches", [16, 24])
def test_flexible_images_of_siglip_2_are_those_of_a_square(side, patches):
    """Where the image is square, its patches are Siglip2ImageProcessor's, put together."""
    transformers = pytest.importorskip("transformers")
    file = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": patches}
    found = transformers.Siglip2ImageProcessorPil(**file)(picture((side, side)), return_tensors="np")
    rows, columns = found["spatial_shapes"][0]
    assert rows == columns == 4
    theirs = found["pixel_values"][0, :16].reshape(4, 4, 8, 8, 3).swapaxes(1, 2).reshape(32, 32, 3)
    preprocessing = Preprocessing.from_hugging_face(file)
    ours = preprocessing.normalise(transforms.evaluation_view(picture((side, side)), preprocessing))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_crop_larger_than_the_image_is_black_around_it():
    """Eleven pixels are missing: six before, five after."""
    view = transforms.evaluation_view(Image.new("RGB", (17, 17), "white"), Preprocessing(size=17, crop=28))
    assert (view[6:23, 6:23] == 255).all() and view.sum() == 17 * 17 * 3 * 255


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA", "YCbCr", "HSV"])
def test_modes_as_transformers(mode):
    assert_same_view(processor_of(CLIP_FILE), CLIP, picture((50, 41), mode))


def test_transparency_is_put_on_white_in_strips(monkeypatch):
    images = [picture((50, 41), mode) for mode in ("RGBA", "LA", "P")]
    images[2].info["transparency"] = 3
    whole = [transforms.to_rgb(image) for image in images]
    monkeypatch.setattr(transforms, "STRIP", 120)  # two rows and a bit
    for image, expected in zip(images, whole, strict=True):
        np.testing.assert_array_equal(transforms.to_rgb(image), expected)


def test_transparency_is_on_white():
    half = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    half.putpixel((1, 0), (10, 20, 30, 255))
    np.testing.assert_array_equal(transforms.to_rgb(half), [[[255, 255, 255], [10, 20, 30]]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    """A file that holds the picture turned, and says so, shows the picture upright."""
    upright = picture((20, 12))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # to be turned by 270 to be seen
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        stored.save(buffer, kind, exif=exif)
        shown = transforms.to_rgb(Image.open(buffer))
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(upright))


# ------------------------------------------------------------------------------------------------ training


def boxes(size, augment, num=2000):
    rng = np.random.default_rng(0)
    return np.array([transforms.random_crop(size, augment, rng) for _ in range(num)], float).T


def assert_distributed(samples, distribution):
    """Kolmogorov-Smirnov at fixed seeds: 2,000 samples tell distributions 4 % apart."""
    assert scipy.stats.kstest(samples, distribution).pvalue > 0.01


def test_area_and_ratio_of_crops():
    """Where every try fits, the area is uniform, the ratio log-uniform, and the place uniform."""
    augment = Augment(scale=(0.1, 0.5))
    left, upper, right, lower = boxes((5000, 5000), augment)
    width, height = right - left, lower - upper
    assert_distributed(width * height / 5000**2, scipy.stats.uniform(0.1, 0.4).cdf)
    low, high = math.log(3 / 4), math.log(4 / 3)
    assert_distributed(np.log(width / height), scipy.stats.uniform(low, high - low).cdf)
    assert_distributed(left / (5000 - width), scipy.stats.uniform().cdf)
    assert_distributed(upper / (5000 - height), scipy.stats.uniform().cdf)


def torchvision_boxes(size, augment, num=8000, log_uniform=True, tries=10, cut=False):
    """What RandomResizedCrop.get_params is documented to do, all tries at once; and mistakes that one may make."""
    (width, height), chance = size, np.random.default_rng(1)
    area = width * height * chance.uniform(*augment.scale, (num, tries))
    low, high = augment.ratio
    ratio = np.exp(chance.uniform(math.log(low), math.log(high), area.shape))
    ratio = ratio if log_uniform else chance.uniform(low, high, area.shape)
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    if cut:
        w, h = np.minimum(w, width), np.minimum(h, height)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first, rows = fits.argmax(1), np.arange(num)
    w, h = w[rows, first], h[rows, first]
    left, upper = np.floor(chance.random(num) * (width - w + 1)), np.floor(chance.random(num) * (height - h + 1))
    # None fits: as much as there is of an image that is too narrow, too wide, or of an allowed ratio.
    if width / height < low:
        whole = width, round(width / low)
    elif width / height > high:
        whole = round(height * high), height
    else:
        whole = width, height
    w, h = (np.where(fits.any(1), x, y) for x, y in zip((w, h), whole, strict=True))
    left = np.where(fits.any(1), left, (width - w) // 2)
    upper = np.where(fits.any(1), upper, (height - h) // 2)
    return np.stack([left, upper, left + w, upper + h])


def least_p_value(size, found, expected):
    """The least of Kolmogorov and Smirnov's, of area, ratio and place of two samples of boxes."""

    def statistics(box):
        left, upper, right, lower = box
        w, h = right - left, lower - upper
        return w * h, np.log(w / h), left / (size[0] - w + 1), upper / (size[1] - h + 1)

    pairs = zip(statistics(found), statistics(expected), strict=True)
    return min(scipy.stats.ks_2samp(x, y, method="asymp").pvalue for x, y in pairs)


CROPPED = [(500, 375), (375, 500), (224, 224), (1200, 300), (200, 3000), (4000, 2500)]


@pytest.mark.parametrize("size", CROPPED, ids=str)
def test_crops_are_distributed_as_torchvision_s(size):
    """Tries that do not fit are drawn again, neither cut nor kept; of one in eight images of 4:1 none fits."""
    for augment in (Augment(), Augment(scale=(0.5, 1.0), ratio=(0.5, 2.0))):
        found = boxes(size, augment, num=8000)
        assert least_p_value(size, found, torchvision_boxes(size, augment)) > 0.01 / 48  # comparisons in all
        left, upper, right, lower = found
        assert left.min() >= 0 and upper.min() >= 0 and right.max() <= size[0] and lower.max() <= size[1]


@pytest.mark.parametrize("mistake", [{"log_uniform": False}, {"tries": 1}, {"cut": True}], ids=str)
def test_other_distributions_would_be_told_apart(mistake):
    expected = [torchvision_boxes(size, Augment(), **mistake) for size in CROPPED]
    pairs = zip(CROPPED, expected, strict=True)
    assert min(least_p_value(size, boxes(size, Augment(), num=8000), x) for size, x in pairs) < 1e-9


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((30, 3000), (0, 1480, 30, 1520)),  # as wide as it is, and 4/3 as high
        ((3000, 30), (1480, 0, 1520, 30)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_extreme_images_fall_back_to_the_centre(size, box):
    augment = Augment(scale=(0.9, 1.0))
    np.testing.assert_array_equal(boxes(size, augment, num=20).T, [box] * 20)


def test_fallback_within_the_ratios_is_the_whole_image():
    """No crop but the whole image has all of its area, and its ratio is never drawn exactly."""
    augment = Augment(scale=(1.0, 1.0), ratio=(0.01, 100))
    whole_image = (boxes((1000, 1000), augment, num=50).T == [0, 0, 1000, 1000]).all(-1)
    assert whole_image.mean() > 0.9


def view(seed=1, view=2, index=3, augment=Augment(), size=(40, 32)):  # noqa: B008, frozen
    return transforms.train_view(picture(size), CLIP, augment, seed, view, index)


def test_a_training_view_is_a_pure_function_of_its_numbers():
    first = view()
    assert first.shape == (28, 28, 3) and first.dtype == np.uint8
    view(seed=9)
    np.testing.assert_array_equal(view(), first)


@pytest.mark.parametrize("changed", [{"seed": 2}, {"view": 1}, {"index": 4}, {"seed": 3, "index": 1}], ids=str)
def test_another_seed_view_or_image_is_another_crop(changed):
    assert (view(**changed) != view()).any()


def whole(flip):
    """The crop that is the whole of a square image."""
    return Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=flip)


def test_no_augmentation_is_a_resize():
    resized = np.asarray(picture((40, 40)).resize((28, 28), Image.Resampling.BICUBIC))
    for index in range(20):
        np.testing.assert_array_equal(view(index=index, augment=whole(0.0), size=(40, 40)), resized)
        np.testing.assert_array_equal(view(index=index, augment=whole(1.0), size=(40, 40)), resized[:, ::-1])


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_flips_are_as_frequent_as_asked_for(probability):
    plain = view(augment=whole(0.0), size=(40, 40))
    views = [view(index=i, augment=whole(probability), size=(40, 40)) for i in range(400)]
    flipped = sum((v != plain).any() for v in views)
    # four standard deviations
    assert abs(flipped - 400 * probability) < 4 * math.sqrt(400 * probability * (1 - probability))


def test_a_crop_is_cut_out_before_it_is_resized():
    """As in torchvision: no pixel beside the box leaks in. And by the filter that the checkpoint asks for."""
    image, augment = picture((60, 50)), Augment(flip=0.0)
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        preprocessing = Preprocessing(size=28, crop=28, resample=int(resample))
        box = transforms.random_crop(image.size, augment, rng.host_stream(1, "views", 2, 3))
        expected = image.crop(box).resize((28, 28), resample)
        pixels = transforms.train_view(image, preprocessing, augment, seed=1, view=2, index=3)
        np.testing.assert_array_equal(pixels, np.asarray(expected))


# ------------------------------------------------------------------------------------------------ reduced scale

TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


def photograph(size, seed=0):
    """Smooth shapes of several sizes, an array."""
    chance = np.random.default_rng(seed)
    scales = [
        np.asarray(Image.fromarray(chance.integers(0, 256, (n, n, 3), np.uint8)).resize(size, 3), float) / n
        for n in (3, 6, 12)
    ]
    total = sum(scales) - np.min(sum(scales))
    return (total / total.max() * 255).astype(np.uint8)


def opened(array, kind="JPEG", mode="RGB", orientation=1):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    quality = {"quality": 95} if kind == "JPEG" else {}
    Image.fromarray(np.ascontiguousarray(array)).convert(mode).save(buffer, kind, exif=exif, **quality)
    return lambda: Image.open(io.BytesIO(buffer.getvalue()))


def both_scales(file, index, side, augment=Augment()):  # noqa: B008, frozen
    """A view of the file, how much it was reduced, and the view of the whole image."""
    preprocessing, image = Preprocessing(size=side, crop=side), file()
    whole_size = image.size
    reduced = transforms.train_view(image, preprocessing, augment, 0, 0, index)
    whole_view = transforms.train_view(transforms.to_rgb(file()), preprocessing, augment, 0, 0, index)
    return reduced.astype(int), whole_size[0] / image.size[0], whole_view.astype(int)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_crop_at_a_reduced_scale_is_that_of_the_whole_image(orientation, mode):
    """Upright, and in its place to a fraction of a pixel, though no scale divides these sizes."""
    file = opened(TURNS[orientation](photograph((203, 157))), "JPEG", mode, orientation)
    scales = []
    for index in range(20):
        reduced, scale, whole = both_scales(file, index, side=16)
        scales.append(round(scale))
        assert np.abs(reduced - whole).mean() < (2 if scale > 1 else 1e-9)
    assert {2, 4, 8} <= set(scales)


@pytest.mark.parametrize(("side", "scale"), [(101, 1), (100, 2), (51, 2), (50, 4), (26, 4), (25, 8), (1, 8)])
def test_nothing_is_reduced_below_the_size_of_the_view(side, scale):
    assert both_scales(opened(photograph((200, 200))), 0, side, whole(0.0))[1] == scale


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("WEBP", "RGB")])
def test_other_files_are_read_whole(kind, mode):
    file = opened(photograph((200, 160)), kind, mode, orientation=6)
    reduced, scale, expected = both_scales(file, 0, 16)
    assert scale == 1
    np.testing.assert_array_equal(reduced, expected)


@pytest.mark.skipif("PINI_DATA_DIR" not in os.environ, reason="PINI_DATA_DIR is not set")
def test_photographs_at_a_reduced_scale():
    folder = Path(os.environ["PINI_DATA_DIR"], "images", "cifar10", "train")
    for index, path in enumerate(sorted(folder.rglob("*.*"))[::8]):
        enlarged = np.asarray(Image.open(path).convert("RGB").resize((300, 260), Image.Resampling.BICUBIC))
        reduced, _, expected = both_scales(opened(enlarged), index, 32)
        assert np.abs(reduced - expected).mean() < 2
