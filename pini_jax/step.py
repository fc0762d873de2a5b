"""One training step: a pure function of (state, frozen parameters, batch, root key)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from pini_jax import rng
from pini_jax.noise.gaussian import Draw, draw_batch
from pini_jax.noise.injector import Injector, Text
from pini_jax.objective import Objective, objective


class TrainState(NamedTuple):
    """All that training changes. No key: it follows from the root and the step."""

    step: Int[Array, ""]
    phi: dict
    opt_state: optax.OptState


class Batch(NamedTuple):
    """Image features (un-normalised), labels, and weights: 1 for an image that counts, 0 for padding."""

    features: Float[Array, "b e"]
    labels: Int[Array, "b"]
    weights: Float[Array, "b"]


def init_state(injector: Injector, optimiser, text: Text, root: Array) -> TrainState:
    """The state before the first step."""
    phi = injector.init(rng.stream(root, "init"), text)
    return TrainState(jnp.zeros((), jnp.int32), phi, optimiser.init(phi))


def train_step(
    injector: Injector,
    optimiser: optax.GradientTransformation,
    num_samples: int,
    state: TrainState,
    theta: Mapping,
    text: Text,
    batch: Batch,
    root: Array,
) -> tuple[TrainState, Objective]:
    """phi <- phi - optimiser(grad_phi objective): one draw of text noise, `num_samples` of image noise."""
    draw = draw_batch(rng.stream(root, "train", state.step), len(batch.labels), num_samples)
    return update(injector, optimiser, state, theta, text, batch, draw)


def update(
    injector: Injector,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    theta: Mapping,
    text: Text,
    batch: Batch,
    draw: Draw,
) -> tuple[TrainState, Objective]:
    """The step given its draws; `theta` is an argument that gets no gradient, so it cannot change."""

    def loss(phi: dict) -> tuple[Array, Objective]:
        logits = injector.logits(phi, theta, text, batch.features, draw)
        parts = objective(logits, batch.labels, batch.weights)
        return parts.loss, parts

    gradient, parts = jax.grad(loss, has_aux=True)(state.phi)
    updates, opt_state = optimiser.update(gradient, state.opt_state, state.phi)
    return TrainState(state.step + 1, optax.apply_updates(state.phi, updates), opt_state), parts
