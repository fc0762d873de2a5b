"""What is read from compiled programs, against what is known of small ones."""

import jax
import jax.numpy as jnp

from benchmarks import program


def read(function, *arguments):
    return program.read(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_product_in_a_loop_counts_as_often_as_the_loop_turns():
    x, weights = jnp.ones((7, 16)), jnp.ones((5, 16, 16))
    found = read(lambda x, weights: jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0], x, weights)
    assert found.flops == 5 * 2 * 7 * 16 * 16 and not found.unknown


def test_a_loop_whose_turns_nobody_knows_is_told():
    found = read(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x), jnp.ones((3, 3)))
    assert found.flops == 2 * 3**3 and found.unknown == 1


def test_what_is_moved_is_named_with_its_size():
    found = read(lambda x: x.T.astype(jnp.bfloat16), jnp.ones((8, 4)))
    assert sum(found.moves.values()) == 2 * 8 * 4
    assert all(move.endswith("bf16[4,8]") for move in found.moves)
