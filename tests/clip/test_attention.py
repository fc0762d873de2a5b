"""Attention, by its definition."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clips
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from samples import sample

from pini_jax.clip import attention, towers


def by_hand(query, key, value, seen):
    """One head of one sequence, in float64."""
    scores = query.astype(np.float64) @ key.T.astype(np.float64) / np.sqrt(query.shape[-1])
    weights = np.where(seen, np.exp(scores - scores.max()), 0)
    return weights / weights.sum(-1, keepdims=True) @ value


@pytest.mark.parametrize("kind", ["all", "causal", "mask"])
def test_by_hand(kind):
    """Two leading axes, the second of which has masks of its own; more keys than queries."""
    rng, (a, b, q, j, h, z) = np.random.default_rng(0), (2, 3, 4, 4 if kind == "causal" else 6, 2, 8)
    query, key, value = (rng.standard_normal((a, b, n, h, z), np.float32) for n in (q, j, j))
    mask = rng.random((b, q, j)) < 0.5
    mask[..., 0] = True
    seen = {"all": np.ones((b, q, j), bool), "causal": np.broadcast_to(np.tri(q, j), (b, q, j)), "mask": mask}[
        kind
    ]
    found = attention.attend(
        query, key, value, jnp.array(mask) if kind == "mask" else None, causal=kind == "causal"
    )
    for i, k, n in np.ndindex(a, b, h):
        expected = by_hand(query[i, k, :, n], key[i, k, :, n], value[i, k, :, n], seen[k])
        np.testing.assert_allclose(found[i, k, :, n], expected, atol=1e-5)


def test_a_query_that_sees_nothing_is_finite():
    """As the tokens are that fill up a packed row: nobody reads them, and their gradient is nobody's."""
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 8))
    of = jax.grad(lambda x: attention.attend(x, x, x, jnp.zeros((1, 3, 3), bool)).sum())
    assert np.isfinite(of(x)).all()


def test_flash_attention_is_for_16_bit_numbers_on_a_gpu():
    assert not attention._has_flash(jnp.float32, 64)
    assert not attention._has_flash(jnp.bfloat16, 64)  # tests run on a CPU


# ------------------------------------------------------------------------------------------------ flash attention


@pytest.fixture
def on_gpu(monkeypatch):
    """As JAX traces and lowers where there is a card with cuDNN; nothing can be compiled or run."""
    monkeypatch.setattr(attention, "_has_flash", lambda dtype, channels: dtype in attention.FLASH_DTYPES)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91900)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda least: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda other: False)


def lowered(function, *arguments):
    """For CUDA, as text."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def num_flash(text, backward):
    return text.count("@__cudnn$fmhaSoftmaxBackward") if backward else text.count("@__cudnn$fmhaSoftmax(")


SIZES = tiny_clips.sizes()
LENGTHS = (1, 21, 22, 50, 77, 197)


def text_blocks(length, causal, remat):
    """(theta, tokens) -> tokens, and an abstract tower in bfloat16."""
    transformer = dataclasses.replace(SIZES.text.transformer, causal=causal)
    sizes = dataclasses.replace(SIZES.text, transformer=transformer)
    tower = towers.TextTower(sizes, SIZES.embed_dim, jnp.bfloat16, remat=remat)
    ids = np.zeros((1, 2), np.int32)
    theta = jax.eval_shape(tower.init, jax.random.key(0), ids, ids[:, 0])["params"]
    tokens = jax.ShapeDtypeStruct((2, 3, length, transformer.width), jnp.bfloat16)  # draws and classes
    return functools.partial(towers.stage, tower, "encode"), theta, tokens


def image_blocks(length, remat):
    tower = towers.ImageTower(SIZES.image, SIZES.embed_dim, jnp.bfloat16, remat=remat)
    pixels = np.zeros((1, *[SIZES.image.image_size] * 2, 3), np.float32)
    theta = jax.eval_shape(tower.init, jax.random.key(0), pixels)["params"]
    tokens = jax.ShapeDtypeStruct((3, length, SIZES.image.transformer.width), jnp.bfloat16)
    return functools.partial(towers.stage, tower, "encode"), theta, tokens


def gradient(encode):
    return jax.grad(lambda tokens, theta: encode(theta, tokens).astype(jnp.float32).sum())


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("kind", ["image", "text", "text of SigLIP"])
@pytest.mark.parametrize("length", sample(LENGTHS, 50, 77))
def test_16_bit_towers_lower_for_a_gpu_with_and_without_gradient(on_gpu, length, kind, remat):
    """JAX refuses odd lengths in the gradient of flash attention, whose padding must not be seen here."""
    encode, theta, tokens = (
        image_blocks(length, remat) if kind == "image" else text_blocks(length, kind == "text", remat)
    )
    once = length >= attention.FLASH_TOKENS  # for all layers, which are one scan
    assert num_flash(lowered(encode, theta, tokens), backward=False) == once
    text = lowered(gradient(encode), tokens, theta)
    assert num_flash(text, backward=True) == once
    assert num_flash(text, backward=False) == once * (1 + remat)


@pytest.mark.parametrize("kind", ["image", "text", "text of SigLIP"])
@pytest.mark.parametrize("length", [21, 50, 77])
def test_lanes_of_16_bit_towers_lower_for_a_gpu(on_gpu, length, kind):
    encode, theta, tokens = (
        image_blocks(length, True) if kind == "image" else text_blocks(length, kind == "text", True)
    )
    many = jax.ShapeDtypeStruct((5, *tokens.shape), tokens.dtype)
    text = lowered(jax.vmap(gradient(encode), in_axes=(0, None)), many, theta)
    assert num_flash(text, backward=True) == (length >= attention.FLASH_TOKENS)


@pytest.mark.parametrize("prefix", sample([1, 5, 21, 33, 50], 21, 33))
def test_a_shared_prefix_lowers_for_a_gpu(on_gpu, prefix):
    """Whatever its length, under the gradient of its tokens."""
    tower = towers.TextTower(SIZES.text, SIZES.embed_dim, jnp.bfloat16, remat=True)
    _, theta, tokens = text_blocks(prefix, True, True)
    suffix = jax.ShapeDtypeStruct((4, 6, tokens.shape[-1]), jnp.bfloat16)
    owner = np.zeros((4, 6), np.int32)

    def loss(prefix, suffix, theta):
        return towers.stage(tower, "encode_suffixes", theta, prefix, suffix, owner).astype(jnp.float32).sum()

    shared = jax.ShapeDtypeStruct((2, prefix, tokens.shape[-1]), jnp.bfloat16)
    text = lowered(jax.grad(loss), shared, suffix, theta)
    assert num_flash(text, backward=True) == (prefix >= attention.FLASH_TOKENS)


@pytest.mark.parametrize(("queries", "keys", "causal"), [(5, 5, True), (5, 5, False), (4, 4, True), (3, 6, False)])
def test_what_makes_lengths_even_is_seen_by_nobody(monkeypatch, queries, keys, causal):
    """Values and gradients of cuDNN's way, with XLA's kernels in the place of its own; in lanes."""
    exact = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *qkv, implementation, **settings: exact(*qkv, **settings)
    )
    rng = np.random.default_rng(0)
    shapes = [(2, 3, n, 2, 8) for n in (queries, keys, keys)]
    *qkv, weight = (rng.standard_normal(shape, np.float32) for shape in [*shapes, shapes[0]])

    def value_and_gradients(attend):
        def loss(query, key, value, weight):
            return (attend(query, key, value) * weight).sum()

        return jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1, 2))))(*qkv, weight)

    found = value_and_gradients(lambda *qkv: attention._flash(*qkv, causal))
    expected = value_and_gradients(lambda *qkv: exact(*qkv, is_causal=causal))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, expected)
