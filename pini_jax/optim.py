"""The optimiser of the trainables: one optax chain and its schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pini_jax.config import Optim

# Numbers are read by a compiled step, which serves every run that differs in nothing else; words are part of it.
WORDS = ("name", "schedule")
NUMBERS = [field.name for field in dataclasses.fields(Optim) if field.name not in WORDS]
jax.tree_util.register_dataclass(Optim, NUMBERS, list(WORDS))


def _released(optim: Optim, epoch: ArrayLike) -> ArrayLike:
    """Constant within an epoch: warmup_lr in epoch 0, then lr (1 + cos(pi (e - 1) / E)) / 2."""
    epoch = jnp.floor(epoch)
    return jnp.where(
        epoch == 0, optim.warmup_lr, optim.lr * (1 + jnp.cos(jnp.pi * (epoch - 1) / optim.epochs)) / 2
    )


def _cosine(optim: Optim, epoch: ArrayLike) -> ArrayLike:
    """lr (1 + cos(pi e / E)) / 2 at every step."""
    return optim.lr * (1 + jnp.cos(jnp.pi * epoch / optim.epochs)) / 2


def _constant(optim: Optim, epoch: ArrayLike) -> ArrayLike:
    """lr."""
    return optim.lr + 0 * epoch


SCHEDULES: Mapping[str, Callable[[Optim, ArrayLike], ArrayLike]] = {
    "released": _released,
    "cosine": _cosine,
    "constant": _constant,
}


def schedule(optim: Optim, steps_per_epoch: ArrayLike) -> optax.Schedule:
    """step -> learning rate, a function of the epoch e = step / steps_per_epoch out of E; see `SCHEDULES`.

    Source of `released`: the paper's released configuration (one warm-up epoch, then cosine by epoch).
    """
    return lambda step: SCHEDULES[optim.schedule](optim, step / steps_per_epoch)


def optimiser(optim: Optim, steps_per_epoch: ArrayLike) -> optax.GradientTransformation:
    """w <- w - lr u, with the direction u of g, the gradient of w.

    `sgd`: u <- momentum u + g + weight_decay w, as PyTorch has it; `adam`: Adam of g + weight_decay w; `adamw`:
    Adam of g, and weight_decay w is added to u. Adam's averages have 0.9 and 0.999, its epsilon is `epsilon`.
    """
    decay = optax.add_decayed_weights(optim.weight_decay)
    adam = optax.scale_by_adam(eps=optim.epsilon)
    directions = {"sgd": (decay, optax.trace(optim.momentum)), "adam": (decay, adam), "adamw": (adam, decay)}
    rate = optax.scale_by_learning_rate(schedule(optim, steps_per_epoch))
    return optax.chain(*directions[optim.name], rate)
