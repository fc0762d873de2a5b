"""The residual image towers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clips
from tiny_clips import run_stage as stage

from pini_jax.clip import architecture, towers
from pini_jax.clip.checkpoints import hugging_face, open_clip, tensors, weights
from pini_jax.clip.resnet import ResNetTower
from pini_jax.core.errors import InputError

# Sizes of OpenAI's models, and their published numbers of parameters in millions (open_clip's model profile).
PUBLISHED = {
    "RN50": (architecture.ResNet(224, 64, (3, 4, 6, 3), 32), 512, 1024, 102.01),
    "RN101": (architecture.ResNet(224, 64, (3, 4, 23, 3), 32), 512, 512, 119.69),
    "RN50x4": (architecture.ResNet(288, 80, (4, 6, 10, 6), 40), 640, 640, 178.3),
    "RN50x16": (architecture.ResNet(384, 96, (6, 8, 18, 8), 48), 768, 768, 290.98),
    "RN50x64": (architecture.ResNet(448, 128, (3, 15, 36, 10), 64), 1024, 1024, 623.26),
}


def sizes_of(image, text_width, embed_dim, context=77, vocabulary=49408, layers=12):
    text = architecture.Transformer(text_width, layers, text_width // 64, 4 * text_width, causal=True)
    return architecture.Architecture(image, architecture.TextSizes(vocabulary, context, text), embed_dim)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_number_of_parameters(name):
    """By shapes alone; the running statistics of batch norm are no parameters."""
    image, text_width, embed_dim, millions = PUBLISHED[name]
    shapes = weights.parameter_shapes(sizes_of(image, text_width, embed_dim))
    count = sum(np.prod(s) for path, s in shapes.items() if not path.endswith(("norm/mean", "norm/var")))
    assert round(count / 1e6, 2) == millions


@pytest.fixture(scope="module")
def sizes():
    return sizes_of(architecture.ResNet(64, 8, (1, 2, 1, 1), 4), 64, 24, context=9, vocabulary=50, layers=1)


@pytest.fixture(scope="module")
def theta(sizes):
    inputs = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 9), int), jnp.zeros(1, int)
    return tiny_clips.random(jax.eval_shape(towers.ClipModel(sizes).init, jax.random.key(0), *inputs))["params"]


def test_openai_names_round_trip_and_tell_the_sizes(tmp_path, sizes, theta):
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, open_clip.scheme(sizes), theta)
    found = tensors.index([path])
    assert open_clip.read_shapes({key: tensor.shape for key, tensor in found.items()}) == sizes
    loaded = weights.load_weights(open_clip.scheme(sizes), sizes, found, jnp.float32, "RN")
    jax.tree.map(np.testing.assert_array_equal, loaded, theta)


@pytest.mark.parametrize("image_size", [31, 32, 62, 63, 64, 65, 95])
def test_places_are_those_of_the_last_feature_map(image_size, sizes):
    """By shapes alone: the first convolution rounds up, the poolings down."""
    image = dataclasses.replace(sizes.image, image_size=image_size)
    shapes = weights.parameter_shapes(dataclasses.replace(sizes, image=image))
    assert shapes["image/pool/position"][0] == 1 + image.grid**2


@pytest.mark.parametrize(
    "change", [{"heads": 5}, {"heads": 0}, {"width": 0}, {"layers": (1, 1)}, {"layers": (1, 0, 1, 1)}]
)
def test_impossible_sizes_are_refused(change, sizes):
    image = dataclasses.replace(sizes.image, **change)
    with pytest.raises(InputError):
        architecture.check_sizes(dataclasses.replace(sizes, image=image), known_activations=towers.ACTIVATIONS)


def test_stages_are_the_tower(sizes, theta):
    tower = ResNetTower(sizes.image, sizes.embed_dim)
    pixels = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    stem = stage(tower, "embed", theta["image"], pixels)
    assert stem.shape == (2, 16, 16, 8)
    tokens = stage(tower, "encode", theta["image"], stem)
    assert tokens.shape == (2, 4, 8 * 8 * 4)
    features = stage(tower, "project", theta["image"], tokens)
    whole = stage(tower, "__call__", theta["image"], pixels)
    np.testing.assert_allclose(features, whole, rtol=1e-5, atol=1e-6)
    low = ResNetTower(sizes.image, sizes.embed_dim, jnp.bfloat16)
    assert stage(low, "__call__", theta["image"], pixels).dtype == jnp.float32
    np.testing.assert_allclose(
        stage(low, "__call__", theta["image"], pixels), whole, atol=0.05 * np.abs(whole).max()
    )


def test_hugging_face_has_no_such_tower(sizes):
    with pytest.raises(architecture.InputError, match="no residual image tower"):
        hugging_face.write_config(sizes, 0, 1)
