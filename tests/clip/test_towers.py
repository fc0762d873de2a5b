"""The towers against numpy, and what the speed-ups rest on: causality and the shared prefix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny_clips
from tiny_clips import run_stage as stage

from pini_jax.clip import towers


@pytest.fixture(scope="module")
def sizes():
    return tiny_clips.sizes()


@pytest.fixture(scope="module")
def theta(sizes):
    return tiny_clips.theta(sizes)


@pytest.fixture(scope="module")
def text_tower(sizes):
    return towers.TextTower(sizes.text, sizes.embed_dim)


@pytest.fixture(scope="module")
def image_tower(sizes):
    return towers.ImageTower(sizes.image, sizes.embed_dim)


@pytest.fixture(scope="module")
def pixels(sizes):
    side = sizes.image.image_size
    return np.random.default_rng(1).standard_normal((3, side, side, 3), np.float32)


@pytest.fixture(scope="module")
def ids(sizes):
    return np.random.default_rng(2).integers(0, sizes.text.vocab_size, (4, 9))


# ------------------------------------------------------------------------------------------------ numpy


def norm(x, p, epsilon=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


GATES = {
    "gelu": scipy.special.ndtr,
    "gelu_pytorch_tanh": lambda x: (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "quick_gelu": lambda x: scipy.special.expit(1.702 * x),
}


def activate(x, name):
    return x * GATES[name](x)


def attention(x, p, heads, causal):
    """One sequence [s d], one head and one query at a time."""
    q, k, v = (
        (x @ p["qkv"]["kernel"].reshape(len(x[0]), -1) + p["qkv"]["bias"].ravel())
        .reshape(len(x), 3, heads, -1)
        .swapaxes(0, 1)
    )
    out = np.zeros_like(q)
    for h in range(heads):
        for i in range(len(x)):
            seen = slice(0, i + 1) if causal else slice(None)
            scores = scipy.special.softmax(k[seen, h] @ q[i, h] / np.sqrt(q.shape[-1]))
            out[i, h] = scores @ v[seen, h]
    return out.reshape(len(x), -1) @ p["out"]["kernel"].reshape(-1, x.shape[-1]) + p["out"]["bias"]


def encode(tokens, blocks, sizes):
    """All blocks over one sequence, in float64."""
    for i in range(sizes.layers):
        p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[i], blocks)  # noqa: B023, used at once
        tokens = tokens + attention(norm(tokens, p["norm_1"]), p, sizes.heads, sizes.causal)
        hidden = norm(tokens, p["norm_2"]) @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"]
        tokens = tokens + activate(hidden, sizes.activation) @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]
    return tokens


@pytest.mark.parametrize("activation", towers.ACTIVATIONS)
def test_text_tower_equals_numpy(theta, ids, activation):
    sizes, theta, end = tiny_clips.sizes(activation), theta["text"], np.array([8, 3, 5, 0])
    features = stage(towers.TextTower(sizes.text, sizes.embed_dim), "__call__", theta, ids, end)
    for i, row in enumerate(ids):
        tokens = theta["token"]["embedding"][row].astype(np.float64) + theta["position"][: len(row)]
        token = encode(tokens, theta["blocks"], sizes.text.transformer)[end[i]]
        expected = norm(token, theta["norm_out"]) @ theta["projection"]["kernel"]
        np.testing.assert_allclose(features[i], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("activation", towers.ACTIVATIONS)
def test_image_tower_equals_numpy(theta, pixels, activation):
    sizes, theta = tiny_clips.sizes(activation), theta["image"]
    features = stage(towers.ImageTower(sizes.image, sizes.embed_dim), "__call__", theta, pixels)
    p, side = sizes.image.patch_size, sizes.image.image_size
    for i, image in enumerate(pixels.astype(np.float64)):
        corners = [(y, x) for y in range(0, side, p) for x in range(0, side, p)]
        patches = [image[y : y + p, x : x + p].ravel() @ theta["patch_embedding"]["kernel"] for y, x in corners]
        tokens = norm(np.stack([theta["class_embedding"], *patches]) + theta["position"], theta["norm_in"])
        token = encode(tokens, theta["blocks"], sizes.image.transformer)[0]
        expected = norm(token, theta["norm_out"]) @ theta["projection"]["kernel"]
        np.testing.assert_allclose(features[i], expected, atol=1e-5 * np.abs(expected).max())


def test_patches_are_those_of_a_convolution(image_tower, theta, sizes, pixels):
    """PyTorch cuts patches with a strided convolution: the same channels, in the same row-major order."""
    theta = theta["image"]
    p = sizes.image.patch_size
    kernel = theta["patch_embedding"]["kernel"].reshape(p, p, 3, -1)
    patches = jax.lax.conv_general_dilated(
        pixels, kernel, (p, p), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    patches = patches.reshape(len(pixels), -1, patches.shape[-1])
    expected = norm(np.asarray(patches, np.float64) + theta["position"][1:], theta["norm_in"])
    tokens = stage(image_tower, "embed", theta, pixels)
    np.testing.assert_allclose(tokens[:, 1:], expected, atol=1e-5)


# ------------------------------------------------------------------------------------------------ causality


def test_a_text_token_depends_on_itself_and_earlier_ones_only(text_tower, theta, sizes):
    tokens = jax.random.normal(jax.random.key(3), (6, sizes.text.transformer.width))
    jacobian = jax.jit(jax.jacobian(lambda x: stage(text_tower, "encode", theta["text"], x)))(tokens)
    influence = np.abs(jacobian).max(axis=(1, 3))  # [out, in]
    np.testing.assert_array_equal(influence > 0, np.tril(np.ones((6, 6), bool)))


def test_the_class_token_depends_on_every_patch(image_tower, theta, sizes):
    shape = (sizes.image.num_patches + 1, sizes.image.transformer.width)
    tokens = jax.random.normal(jax.random.key(4), shape)
    jacobian = jax.jit(jax.jacobian(lambda x: stage(image_tower, "encode", theta["image"], x)[0]))(tokens)
    assert (np.abs(jacobian).max(axis=(0, 2)) > 0).all()


def test_what_follows_the_end_token_changes_nothing(text_tower, theta, ids):
    end = np.array([2, 7, 0, 4])
    behind = np.arange(ids.shape[1]) > end[:, None]
    features = stage(text_tower, "__call__", theta["text"], ids, end)
    changed = stage(text_tower, "__call__", theta["text"], np.where(behind, 1 + ids // 2, ids), end)
    np.testing.assert_array_equal(features, changed)
    at_end = stage(text_tower, "__call__", theta["text"], np.where(behind, ids, 1 + ids // 2), end)
    assert (np.abs(features - at_end).max(-1) > 0).all()


@pytest.mark.parametrize(("draws", "length"), [(1, 1), (3, 5)])
def test_shared_prefix_equals_whole_sequences(text_tower, theta, sizes, ids, draws, length):
    """For several draws of the prefix, and suffixes that end at different places."""
    theta, end = theta["text"], np.array([3, 0, 2, 1])
    prefix = jax.random.normal(jax.random.key(5), (draws, length, sizes.text.transformer.width))

    places = np.broadcast_to(length + np.arange(4), (len(ids), 4))
    suffix = text_tower.bind({"params": theta}).embed(ids[:, :4], places)
    shared = stage(text_tower, "encode_suffixes", theta, prefix, suffix, np.zeros((len(ids), 4), int))
    shared = stage(text_tower, "project", theta, shared[:, np.arange(len(ids)), end])
    lead = (draws, len(ids))
    before = jnp.broadcast_to(prefix[:, None], (*lead, *prefix.shape[1:]))
    whole = jnp.concatenate([before, jnp.broadcast_to(suffix, (*lead, *suffix.shape[1:]))], axis=-2)
    whole = stage(text_tower, "encode", theta, whole)
    whole = stage(text_tower, "project", theta, whole[:, np.arange(len(ids)), length + end])
    np.testing.assert_allclose(shared, whole, atol=1e-5 * np.abs(whole).max())


def test_tokens_may_stand_at_given_places(text_tower, theta, ids):
    embed = text_tower.bind({"params": theta["text"]}).embed
    places = np.broadcast_to(np.arange(3, ids.shape[1]), ids[:, 3:].shape)
    parts = [embed(ids[:, :3]), embed(ids[:, 3:], places)]
    np.testing.assert_array_equal(embed(ids), jnp.concatenate(parts, axis=1))


# ------------------------------------------------------------------------------------------------ jax


def test_vmap_over_classes_changes_nothing(text_tower, theta, ids):
    end = np.array([8, 3, 5, 0])
    one = jax.vmap(lambda row, e: stage(text_tower, "__call__", theta["text"], row, e))
    whole = stage(text_tower, "__call__", theta["text"], ids, end)
    np.testing.assert_allclose(one(ids, end), whole, atol=1e-5)


def test_without_jit_it_is_the_same(text_tower, theta, ids):
    end = np.array([8, 3, 5, 0])
    eager = text_tower.apply({"params": theta["text"]}, ids, end)
    np.testing.assert_allclose(stage(text_tower, "__call__", theta["text"], ids, end), eager, atol=1e-5)


def test_images_may_have_more_leading_axes(image_tower, theta, pixels):
    """As the draws of a pixel site would have."""
    features = stage(image_tower, "__call__", theta["image"], np.stack([pixels, pixels[::-1]]))
    np.testing.assert_allclose(features[0], features[1, ::-1], atol=1e-5)
    assert features.shape[:2] == (2, len(pixels))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_features_are_float32_whatever_the_towers_compute_in(image_tower, text_tower, theta, pixels, ids, dtype):
    end = np.array([8, 3, 5, 0])
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), theta)
    for tower, key, inputs in ((image_tower, "image", (pixels,)), (text_tower, "text", (ids, end))):
        exact = stage(tower, "__call__", theta[key], *inputs)
        tower = dataclasses.replace(tower, dtype=dtype)
        assert stage(tower, "embed", cast[key], inputs[0]).dtype == dtype
        features = stage(tower, "__call__", cast[key], *inputs)
        assert features.dtype == jnp.float32
        error = np.linalg.norm(features - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
        assert error.max() < (0.05 if dtype == jnp.bfloat16 else 1e-6)
