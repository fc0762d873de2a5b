"""One training step: deterministic, pure, and blind to padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pini_jax.config import Optim
from pini_jax.core import rng
from pini_jax.methods import forward as stages
from pini_jax.methods.method import Batch, Variables
from pini_jax.methods.objective import objective
from pini_jax.methods.optim import Length
from pini_jax.noise.draws import draw_batch
from pini_jax.train.step import Constants, init_state, train_step

LR = 0.1
CONSTANTS = Constants(1, Optim(lr=LR, warmup_lr=LR, weight_decay=0.0), Length(epochs=100, per_epoch=100))


@pytest.fixture(scope="module")
def batch(clip):
    features = np.random.default_rng(0).standard_normal((6, clip.embed_dim), np.float32)
    return Batch(features, np.array([0, 1, 2, 0, 1, 2]), np.array([1, 1, 1, 1, 0, 0], np.float32))


@pytest.fixture(scope="module")
def init(injector, clip, text):
    """constants -> state."""
    compiled = jax.jit(functools.partial(init_state, injector))
    return lambda constants: compiled(clip.theta, text, constants)


@pytest.fixture(scope="module")
def state(init):
    return init(CONSTANTS)


@pytest.fixture(scope="module")
def step(injector, clip, text):
    """(state, batch, constants) -> (state, parts), with three draws of image noise."""
    compiled = jax.jit(functools.partial(train_step, injector, 3))
    return lambda state, batch, constants=CONSTANTS: compiled(state, clip.theta, text, batch, constants)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differing(a, b):
    """The names of the parameters that differ by more than rounding."""
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max() > 1e-6, a, b)
    return {jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(moved) if leaf}


@pytest.fixture(scope="module")
def names(state):
    """Of all that can learn. A constant added to every key moves all scores of a query alike: no gradient."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.phi)]
    return {path for path in paths if path != "['image_features']['key']['bias']"}


def test_init_is_a_function_of_the_seed(state, init, names):
    assert int(state.step) == 0
    assert_equal(init(CONSTANTS), state)
    assert differing(init(CONSTANTS._replace(seed=2)).phi, state.phi) >= names


def test_a_step_is_pure_and_deterministic(step, state, batch):
    before = jax.tree.map(np.array, state)
    first, again = step(state, batch), step(state, batch)
    assert_equal(first, again)
    assert_equal(state, before)
    assert int(first[0].step) == 1
    assert jax.tree.structure(first[0]) == jax.tree.structure(state)


def test_every_parameter_learns(step, state, batch, names):
    assert differing(step(state, batch)[0].phi, state.phi) == names


def test_seeds_and_steps_draw_other_noise(step, state, batch):
    """Only the draw changes, and the loss with it."""
    losses = {float(step(state, batch, CONSTANTS._replace(seed=seed))[1].loss) for seed in range(3)}
    losses |= {float(step(state._replace(step=jnp.int32(i)), batch)[1].loss) for i in (1, 2)}
    assert len(losses) == 5


def test_padding_changes_nothing(step, state, batch, names):
    other = batch.images.copy()
    other[4:] *= -7
    padded = batch._replace(images=other, labels=np.array([0, 1, 2, 0, 2, 0]))
    assert_equal(step(state, padded), step(state, batch))
    counted = batch._replace(weights=np.ones(6, np.float32))
    assert differing(step(state, counted)[0].phi, step(state, batch)[0].phi) == names


def test_a_step_goes_down_the_gradient(step, injector, clip, text, batch, state):
    """By finite differences, along the step, of the loss with its draws: one of the text, three of the images,
    from the stream of the step's number."""
    state = state._replace(step=jnp.int32(7))
    taken, parts = step(state, batch)
    updates = jax.tree.map(lambda new, old: (new - old) / -LR, taken.phi, state.phi)
    draw = draw_batch(rng.stream(CONSTANTS.root, "train", 7), len(batch.labels), {"image_features": 3})

    @jax.jit
    def loss(t):
        phi = jax.tree.map(lambda p, u: p + t * u, state.phi, updates)
        logits, _ = stages.forward(injector, Variables(phi), clip.theta, text, batch.images, draw)
        return objective(logits, batch.labels, batch.weights).loss

    assert float(loss(0.0)) == pytest.approx(float(parts.loss), rel=1e-5)
    t = 1e-2
    squared = sum(float((u**2).sum()) for u in jax.tree.leaves(updates))
    assert float(loss(t) - loss(-t)) / (2 * t) == pytest.approx(squared, rel=0.02)


def test_training_changes_no_weight_of_clip(step, state, batch, clip):
    before = jax.tree.map(np.array, clip.theta)
    for _ in range(3):
        state, _ = step(state, batch)
    assert_equal(clip.theta, before)
    # and nothing as large as a tower is part of what is trained
    trained = sum(x.size for x in jax.tree.leaves(state.phi))
    assert sum(x.size for x in jax.tree.leaves(state)) <= 2 * trained + 3


def test_the_loss_falls(step, state, batch):
    losses = []
    for _ in range(30):
        state, parts = step(state, batch)
        losses.append(float(parts.loss))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
