"""A generator of one's own: noise of one size in all directions, around a mean that is learned.

    python -m pini_jax.main --config=configs/digits.py --config.plugins='("examples/new_generator.py",)' \
        --config.noise='{"image_features": {"generator": "isotropic"}}' --workdir=runs/isotropic
"""

from typing import ClassVar

import flax.linen as nn

from pini_jax import register
from pini_jax.core.options import positive
from pini_jax.noise.generators import Generator, Inputs, Moment


@register.generator("image_features", "isotropic")
@register.generator("text_features", "isotropic")
class Isotropic(Generator):
    """mu of every vector that the noise is added to, and one sigma = |s| for all of them.

    Attributes:
        initial_scale: s before the first step.
    """

    is_table: ClassVar[bool] = True  # mu has the shape of what it is added to

    initial_scale: float = positive(0.1)

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """Functions, so that only what the control leaves has parameters."""
        mean = lambda: self.param("mean", nn.initializers.zeros, inputs.shape)  # noqa: E731
        return mean, lambda: self.param("scale", nn.initializers.constant(self.initial_scale), ())
