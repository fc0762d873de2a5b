"""Cross-dataset transfer: trained on ImageNet, tested on the ten other datasets of the papers.

    pini train --config=cross_dataset:data_dir=/data --workdir=runs/cross

Each dataset's metrics are under `unseen` of result.json. The prompt keeps the template it was trained with; plain
CLIP is given each dataset's own.
"""

from pini_jax.config import default, with_arguments
from pini_jax.data.datasets.coop import OTHERS


def get_config(arguments: str = ""):
    config = default()
    config.dataset = "imagenet"
    config.transfer = OTHERS
    return with_arguments(config, arguments)
