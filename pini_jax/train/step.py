"""One training step: a pure function of (state, frozen parameters, texts, batch, constants of the run)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from pini_jax.core import mesh as meshes
from pini_jax.core import rng
from pini_jax.core.shapes import Numbers, Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods import forward
from pini_jax.methods.method import Batch, Method, Text, Variables
from pini_jax.methods.objective import Parts
from pini_jax.methods.optim import Length, Optim
from pini_jax.noise.draws import Draw, draw_batch
from pini_jax.task.run import Run, support


class TrainState(NamedTuple):
    """Everything that training changes. It has no key: keys follow from the seed and the step."""

    step: Int[Array, ""]
    phi: Parameters
    opt_state: optax.OptState
    buffers: Parameters = {}

    @property
    def variables(self) -> Variables:
        """The method's variables."""
        return Variables(self.phi, self.buffers)


class Constants(NamedTuple):
    """The numbers that all steps of a run share: arguments of the compiled step, not part of it."""

    seed: Int[Numbers, ""]
    optim: Optim
    length: Length

    @property
    def root(self) -> Array:
        """The key that every stream is derived from."""
        return rng.root(self.seed)

    def optimiser(self, method: Method) -> optax.GradientTransformation:
        """The optimiser of a method's trainable parameters."""
        return method.optimiser(self.optim, self.length)


def init_state(
    method: Method, theta: Parameters, text: Text, constants: Constants, support: Support = NO_SUPPORT
) -> TrainState:
    """The state before the first step."""
    phi, buffers = method.init(rng.stream(constants.root, "init"), theta, text, support)
    return TrainState(jnp.zeros((), jnp.int32), phi, constants.optimiser(method).init(phi), buffers)


def train_step(
    method: Method,
    num_samples: int,
    state: TrainState,
    theta: Parameters,
    text: Text,
    batch: Batch,
    constants: Constants,
) -> tuple[TrainState, Parts]:
    """phi <- phi - optimiser(grad_phi loss), with `num_samples` draws of the noise, but one of the prompt's."""
    key = rng.stream(constants.root, "train", state.step)
    draw = draw_batch(key, len(batch.labels), method.num_draws(num_samples))
    return update(method, constants.optimiser(method), state, theta, text, batch, draw)


def update(
    method: Method,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    theta: Parameters,
    text: Text,
    batch: Batch,
    draw: Draw,
) -> tuple[TrainState, Parts]:
    """The step given its draws; `theta` is an argument that gets no gradient, so it cannot change."""

    def loss(phi: Parameters) -> tuple[Array, tuple[Parts, Parameters]]:
        parts, buffers = forward.loss(method, Variables(phi, state.buffers), theta, text, batch, draw)
        return parts.loss, (parts, buffers)

    gradient, (parts, buffers) = jax.grad(loss, has_aux=True)(state.phi)
    updates, opt_state = optimiser.update(gradient, state.opt_state, state.phi)
    return TrainState(state.step + 1, optax.apply_updates(state.phi, updates), opt_state, buffers), parts


def constants_of(run: Run) -> Constants:
    """The traced hyper-parameters of a run: seed, optimiser, length."""
    return Constants(np.array(run.config.seed, np.uint32), run.config.optim, run.length)


def initial_state(run: Run) -> TrainState:
    """The state of a run before the first step, on every device."""
    shared = run.shared
    init = init_state if shared.method.traits.sets_itself else jax.jit(init_state, static_argnums=0)
    made = init(shared.method, shared.frozen.theta, shared.task.text, constants_of(run), support(run))
    return meshes.replicate(shared.mesh, made)
