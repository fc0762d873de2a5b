"""2SFS: the layer norms of both towers, and then a linear classifier that starts at their texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from pini_jax.clip.zero_shot import normalise
from pini_jax.core.options import at_least, fraction
from pini_jax.core.shapes import Parameters
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods import optim
from pini_jax.methods.method import Method, Search, Text, Traits, Variables
from pini_jax.methods.optim import Length, Optim
from pini_jax.methods.transformers import TOWERS, check_transformers
from pini_jax.noise.draws import Draw, draw_mean


@dataclasses.dataclass(frozen=True)
class TwoStage(Method):
    """logits_c = exp(s) cos(V(x), T_c / |T_c| + w_c), with w = 0 at the start, learned in two stages.

    The first `share` of all steps train scale and bias of every layer norm of both towers, and the others w, a
    linear classifier that starts at the texts as the first stage has left them. Each stage has an optimiser and a
    schedule of its own. Weight decay pulls w towards the texts, where the paper's shrinks the whole classifier,
    which moves no cosine. Both stages run one compiled step through both towers: the second could be cheaper.

    Source: Farina et al. 2025, Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages,
    https://arxiv.org/abs/2503.11609: one recipe for all data, AdamW, learning rate 2e-4 by a cosine of steps in
    each stage, weight decay 0.01, batches of 32, 300 steps per shot.

    Attributes:
        share: of the steps, that the first stage has.
        steps_per_shot: of both stages, where `optim.epochs` is 0.
    """

    share: float = fraction(0.6)
    steps_per_shot: int = at_least(1, 300)

    paper: ClassVar[Mapping[str, Any]] = {
        "template": "coop",
        "optim.name": "adamw",
        "optim.schedule": "cosine",
        "optim.lr": 2e-4,
        "optim.weight_decay": 1e-2,
        "optim.epochs": 0,
    }
    search: ClassVar[Search] = {}

    # Both towers are others, and every class has a w.
    traits = Traits(reads="pixels", encodes_prompts=True, is_per_class=True, moves_images=True)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Starts with the norms unchanged and w = 0.

        Raises:
            InputError: a tower is no transformer.
        """
        check_transformers(theta, "2sfs changes the layer norms of transformers")
        norms = {tower: unflatten_dict(_norms(theta[tower])) for tower in TOWERS}
        return Variables({"norms": norms, "classes": jnp.zeros(text.features.shape[1:])})

    def adapt(self, variables: Variables, theta: Parameters) -> Mapping[str, Any]:
        """The towers with the changed norms."""
        changed = {}
        for tower in TOWERS:
            old, new = flatten_dict(theta[tower]), flatten_dict(variables.phi["norms"][tower])
            changed[tower] = unflatten_dict(old | {path: x.astype(old[path].dtype) for path, x in new.items()})
        return {**theta, **changed}

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "_ c e"]:
        """The weights of the linear classifier."""
        return normalise(text) + variables.phi["classes"]

    def schedule(self, settings: Optim, length: Length) -> optax.Schedule:
        """The schedule of a whole training, once in each stage."""
        whole, steps = super().schedule(settings, length), length.steps
        first = self._first(steps)

        def rate(step: ArrayLike) -> ArrayLike:
            begin, stage = jnp.where(step < first, 0, first), jnp.where(step < first, first, steps - first)
            return whole((step - begin) / stage * steps)

        return rate

    def optimiser(self, settings: Optim, length: Length) -> optax.GradientTransformation:
        """Trains the norms in the first stage, and the classes in the second."""
        first, direction = self._first(length.steps), optim.direction(settings)
        stages = {
            "norms": optax.conditionally_mask(direction, lambda step: step < first),
            "classes": optax.conditionally_mask(direction, lambda step: step >= first),
        }
        rate = optax.scale_by_learning_rate(self.schedule(settings, length))
        return optax.chain(optax.partition(stages, {stage: stage for stage in stages}), rate)

    def _first(self, steps: ArrayLike) -> Array:
        """The steps of the first stage."""
        return jnp.floor(self.share * steps)


def _norms(tower: Parameters) -> dict[tuple[str, ...], Array]:
    """Scales and biases of a tower's layer norms, by their paths."""
    return {
        path: jnp.asarray(x, jnp.float32)
        for path, x in flatten_dict(tower).items()
        if path[-2:-1] and path[-2].startswith("norm")
    }
