"""Domain generalisation: trained on ImageNet, tested on ImageNetV2, Sketch, A and R.

    pini train --config=domain:data_dir=/data --workdir=runs/domain

Each shift's metrics are under `unseen` of result.json; A and R have 200 classes each.
"""

from pini_jax.config import default, with_arguments
from pini_jax.data.datasets.coop import SHIFTS


def get_config(arguments: str = ""):
    config = default()
    config.dataset = "imagenet"
    config.transfer = SHIFTS
    return with_arguments(config, arguments)
