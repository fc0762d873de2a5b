"""The optimiser of the trainables: one optax chain and its schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from pini_jax.core.options import at_least, below_one, one_of, positive


def _released(optim: Optim, epoch: ArrayLike, epochs: ArrayLike) -> ArrayLike:
    """Constant within an epoch: warmup_lr in epoch 0, then lr (1 + cos(pi (e - 1) / E)) / 2."""
    epoch = jnp.floor(epoch)
    return jnp.where(epoch == 0, optim.warmup_lr, optim.lr * (1 + jnp.cos(jnp.pi * (epoch - 1) / epochs)) / 2)


def _cosine(optim: Optim, epoch: ArrayLike, epochs: ArrayLike) -> ArrayLike:
    """lr (1 + cos(pi e / E)) / 2 at every step."""
    return optim.lr * (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2


def _constant(optim: Optim, epoch: ArrayLike, epochs: ArrayLike) -> ArrayLike:
    """lr."""
    return optim.lr + 0 * epoch


SCHEDULES: Mapping[str, Callable[[Optim, ArrayLike, ArrayLike], ArrayLike]] = {
    "released": _released,
    "cosine": _cosine,
    "constant": _constant,
}


def _decay(optim: Optim) -> optax.GradientTransformation:
    return optax.add_decayed_weights(optim.weight_decay)


def _adam(optim: Optim) -> optax.GradientTransformation:
    return optax.scale_by_adam(eps=optim.epsilon)


DIRECTIONS: Mapping[str, Callable[[Optim], tuple[optax.GradientTransformation, ...]]] = {
    "sgd": lambda optim: (_decay(optim), optax.trace(optim.momentum)),
    "adam": lambda optim: (_decay(optim), _adam(optim)),
    "adamw": lambda optim: (_adam(optim), _decay(optim)),
}


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser of the trainables; the defaults are the released configuration.

    Attributes:
        name: `sgd`, `adam` or `adamw`.
        schedule: of the learning rate: `released` (an epoch of warm-up, then a cosine by epochs), `cosine` (by
            steps), or `constant`.
        lr: learning rate after warm-up.
        momentum: of SGD, how much of the last update goes into the next.
        weight_decay: pull towards zero, added to the gradient, or with `adamw` to the update.
        epsilon: of Adam.
        epochs: passes over the selected images; 0 takes so many steps for every shot as the method's option
            `steps_per_shot` says, whatever the number of classes.
        warmup_lr: learning rate of the first epoch, where the schedule has a warm-up.
    """

    name: str = one_of(DIRECTIONS, "sgd")
    schedule: str = one_of(SCHEDULES, "released")
    lr: float = positive(1e-3)
    momentum: float = below_one(0.9)
    weight_decay: float = at_least(0, 5e-4)
    epsilon: float = positive(1e-8)
    epochs: int = at_least(0, 100, "the method's steps_per_shot")
    warmup_lr: float = at_least(0, 1e-5)


# Numbers are read by a compiled step, which serves every run that differs in nothing else; words are part of it.
WORDS = ("name", "schedule")
NUMBERS = [field.name for field in dataclasses.fields(Optim) if field.name not in WORDS]
jax.tree_util.register_dataclass(Optim, NUMBERS, list(WORDS))


def num_steps(epochs: int, per_epoch: int, steps_per_shot: int, shots: int) -> int:
    """Number of training steps: those of the epochs or, if `epochs` is 0, `steps_per_shot` times the shots."""
    return epochs * per_epoch or steps_per_shot * shots


class Length(NamedTuple):
    """How long a training is: epochs, and steps per epoch.

    Attributes:
        epochs: passes over the selected images; the last one ends early if steps are counted per shot.
        per_epoch: steps per epoch.
    """

    epochs: ArrayLike
    per_epoch: ArrayLike

    @property
    def steps(self) -> Array:
        """The total number of steps."""
        return jnp.round(self.epochs * self.per_epoch)


def schedule(optim: Optim, length: Length) -> optax.Schedule:
    """step -> learning rate, a function of the epoch e = step / per_epoch out of E = epochs; see `SCHEDULES`.

    Source of `released`: the paper's released configuration (one warm-up epoch, then cosine by epoch).
    """
    return lambda step: SCHEDULES[optim.schedule](optim, step / length.per_epoch, length.epochs)


def optimiser(optim: Optim, length: Length) -> optax.GradientTransformation:
    """w <- w - lr u, with the direction u of g, the gradient of w.

    `sgd`: u <- momentum u + g + weight_decay w, as PyTorch has it; `adam`: Adam of g + weight_decay w; `adamw`:
    Adam of g, and weight_decay w is added to u. Adam's averages have 0.9 and 0.999, its epsilon is `epsilon`.
    """
    rate = optax.scale_by_learning_rate(schedule(optim, length))
    return optax.chain(*DIRECTIONS[optim.name](optim), rate)


def direction(optim: Optim) -> optax.GradientTransformation:
    """The direction u alone, without the learning rate."""
    return optax.chain(*DIRECTIONS[optim.name](optim))
