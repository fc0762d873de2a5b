"""One training step: a pure function of (state, frozen parameters, texts, batch, constants of the run)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from pini_jax import optim, rng
from pini_jax.config import Optim
from pini_jax.noise.gaussian import Draw, draw_batch
from pini_jax.noise.injector import Injector, Text
from pini_jax.objective import Objective, objective

Numbers = Any  # of the host, or on a device


class TrainState(NamedTuple):
    """All that training changes. No key: it follows from the seed and the step."""

    step: Int[Array, ""]
    phi: dict
    opt_state: optax.OptState


class Batch(NamedTuple):
    """Image features (un-normalised), labels, and weights: 1 for an image that counts, 0 for padding."""

    features: Float[Numbers, "b e"]
    labels: Int[Numbers, "b"]
    weights: Float[Numbers, "b"]


class Constants(NamedTuple):
    """The numbers that all steps of a run share: arguments of the compiled step, not part of it."""

    seed: Int[Numbers, ""]
    optim: Optim
    steps_per_epoch: Int[Numbers, ""]

    @property
    def root(self) -> Array:
        """The key that every stream is derived from."""
        return rng.root(self.seed)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Of the trainables."""
        return optim.optimiser(self.optim, self.steps_per_epoch)


def init_state(injector: Injector, text: Text, constants: Constants) -> TrainState:
    """The state before the first step."""
    phi = injector.init(rng.stream(constants.root, "init"), text)
    return TrainState(jnp.zeros((), jnp.int32), phi, constants.optimiser.init(phi))


def train_step(
    injector: Injector,
    num_samples: int,
    state: TrainState,
    theta: Mapping,
    text: Text,
    batch: Batch,
    constants: Constants,
) -> tuple[TrainState, Objective]:
    """phi <- phi - optimiser(grad_phi objective): one draw of text noise, `num_samples` of image noise."""
    key = rng.stream(constants.root, "train", state.step)
    draw = draw_batch(key, len(batch.labels), num_samples)
    return update(injector, constants.optimiser, state, theta, text, batch, draw)


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
