"""A site of one's own: noise on the logits, so that the classes themselves are uncertain.

    python -m pini_jax.main --config=configs/digits.py --config.plugins='("examples/new_site.py",)' \
        --config.noise='{"class_logits": {"generator": "table"}}' --workdir=runs/class_logits
"""

import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from pini_jax import register
from pini_jax.noise.generators import Table
from pini_jax.noise.sites import Site, Surroundings, mean_over_images


def blank(around: Surroundings) -> Float[Array, "1 1 1 c"]:
    """Logits of one image, in their shape alone."""
    return jnp.zeros((1, 1, 1, around.text.shape[1]))


CLASS_LOGITS = register.site(
    Site(
        name="class_logits",
        side="image",  # every image has draws of its own
        blank=blank,
        divergence=mean_over_images,
        generators=FrozenDict({"table": Table}),
        per_class=True,  # a table of it fits no other classes
        stage="logits",  # the value of the forward pass that the noise is added to
    )
)
