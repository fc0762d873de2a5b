"""The paper's released configuration (arXiv 2412.10817, and its code), on any CLIP and dataset.

    pini train --config=paper:dataset=oxford_pets,data_dir=/data --workdir=runs/pets
    pini sweep --config=paper:dataset=oxford_pets,data_dir=/data --workdir=runs/pets_sweep

The second command is the few-shot protocol of the papers: 1, 2, 4, 8 and 16 shots, seeds 1 to 3.

Prompt noise from a table and image noise from cross-attention; SGD with momentum 0.9 and weight decay 5e-4,
learning rate 1e-3, batches of 32, 100 epochs of fresh random crops, sixteen words `x` before the template.
Expected with --config.clip=tiny_clip on the digits, whose views suit neither flips nor crops of 8 %: 74.9 % zero-
shot, 78.5 % with mean noise. Published figures need the published images and weights.

All of that is the default of `pini_jax.config.Config`.
"""

from pini_jax.config import default, with_arguments


def get_config(arguments: str = ""):
    return with_arguments(default(), arguments)
