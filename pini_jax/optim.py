"""The optimiser of the trainables: one optax chain and its schedule."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pini_jax.config import Optim

# Settings are numbers that a compiled step reads: it serves every run that differs in nothing else.
jax.tree_util.register_dataclass(Optim, [field.name for field in dataclasses.fields(Optim)], [])


def schedule(optim: Optim, steps_per_epoch: ArrayLike) -> optax.Schedule:
    """Constant within an epoch; epoch 0 at warmup_lr, epoch e >= 1 at lr (1 + cos(pi (e - 1) / E)) / 2.

    Source: the paper's released configuration (one warm-up epoch, then cosine by epoch).
    """

    def learning_rate(step):
        epoch = step // steps_per_epoch
        cosine = optim.lr * (1 + jnp.cos(jnp.pi * (epoch - 1) / optim.epochs)) / 2
        return jnp.where(epoch == 0, optim.warmup_lr, cosine)

    return learning_rate


def optimiser(optim: Optim, steps_per_epoch: ArrayLike) -> optax.GradientTransformation:
    """v <- momentum v + g + weight_decay w;  w <- w - lr v: SGD as PyTorch has it."""
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay),
        optax.trace(optim.momentum),
        optax.scale_by_learning_rate(schedule(optim, steps_per_epoch)),
    )
