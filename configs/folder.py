"""A folder of class folders, with any CLIP: here the bundled one.

    pini train --config=folder:path=/data/flowers --workdir=runs/folder

The folder's layout is in `pini_jax/data/datasets/folder.py`; `pini check --dataset=folder:/data/flowers` looks at
every image of it first. The bundled CLIP knows letters and digits only: for photographs name a real one with
`clip=openai/clip-vit-base-patch16`.
"""

from pini_jax.config import default, take_argument, with_arguments


def get_config(arguments: str = ""):
    path, others = take_argument(arguments, "path")
    config = default()
    config.dataset = f"folder:{path}"
    config.clip = "tiny_clip"
    config.views = 8
    return with_arguments(config, others)
