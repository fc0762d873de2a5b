"""Real handwriting with the bundled CLIP.

    pini train --config=digits --workdir=runs/digits

The released method and optimiser at a size that suits two CPU cores: eight cached views instead of fresh ones,
crops that keep the digit and no flips, and a larger learning rate over more epochs, since an epoch has only five
steps. Chosen on the validation pool. Expected on the test set with seed 1: 75.0 % zero-shot, 92.4 % with mean
noise, in half a minute (92 to 93 % with other versions of JAX: rounding grows in a thousand steps).
"""

from pini_jax.config import default, with_arguments


def get_config(arguments: str = ""):
    config = default()
    config.clip = "tiny_clip"
    config.template = "x " * 16 + "a photo of the digit {}."
    config.zero_shot_template = "a photo of the digit {}."
    config.views = 8
    config.augment.scale = (0.7, 1.0)
    config.augment.flip = 0.0
    config.optim.lr = 5e-3
    config.optim.epochs = 200
    return with_arguments(config, arguments)
