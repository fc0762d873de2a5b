"""Base-to-new generalisation: trained on the first half of the classes, tested on both halves.

    pini train --config=base_to_new:dataset=oxford_pets,data_dir=/data --workdir=runs/base

`unseen.new` of result.json are the new classes, and `harmonic_mean` is that of both accuracies. The noise of the
prompt belongs to the template's tokens and carries over to any class.
"""

from pini_jax.config import default, with_arguments


def get_config(arguments: str = ""):
    config = default()
    config.classes = "base"
    return with_arguments(config, arguments)
