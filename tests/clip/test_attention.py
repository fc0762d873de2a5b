"""Attention, by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pini_jax.clip import attention


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
