"""Cross-dataset transfer: trained on ImageNet, tested on the ten other datasets of the papers.

    pini train --config=cross_dataset:data_dir=/data --workdir=runs/cross

Each dataset's metrics are under `unseen` of result.json. The prompt keeps the template it was trained with; plain
CLIP is given each dataset's own.
"""

from pini_jax.config import default, with_arguments

OTHERS = (
    *("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101"),
    *("fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
)


def get_config(arguments: str = ""):
    config = default()
    config.dataset = "imagenet"
    config.transfer = OTHERS
    return with_arguments(config, arguments)
