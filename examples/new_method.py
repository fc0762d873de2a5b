"""A method of one's own: the nearest of class means, each between its text and its images.

    python -m pini_jax.main --config=configs/digits.py --config.plugins='("examples/new_method.py",)' \
        --config.method=prototypes --config.template='a photo of the digit {}.' --workdir=runs/prototypes
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Array, Float

from pini_jax import register
from pini_jax.clip.zero_shot import normalise
from pini_jax.core.options import fraction
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean


@register.method("prototypes")
@dataclasses.dataclass(frozen=True)
class Prototypes(Method):
    """logits_c = exp(s) cos(f, (1 - a) t_c + a m_c), with m_c the mean of the unit features of class c.

    Source: Snell et al. 2017, https://arxiv.org/abs/1703.05175, beside a text.

    Attributes:
        images: a, how much of a class is its images.
    """

    images: float = fraction(0.5)

    search: ClassVar[Mapping[str, tuple]] = {"options.images": (0.25, 0.5, 0.75, 1.0)}
    traits = Traits(starts_from_support=True, is_fitted=True, is_per_class=True)

    def init(self, key: Array, theta: Mapping, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """The class means; no step follows."""
        features, _ = support.rows()
        return Variables({"means": support.class_means(features, text.features.shape[1])})

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "k c e"]:
        """Between both."""
        return (1 - self.images) * normalise(text) + self.images * normalise(variables.phi["means"])
