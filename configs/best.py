"""Noise that sets itself, with no settings to choose, for precomputed features or for images.

    pini sweep --config=best:path=dtd_vitb32.npz --workdir=runs/best
    pini sweep --config=best:dataset=digits,clip=tiny_clip --workdir=runs/best_digits

Method `empirical_bayes`; images have eight views besides their own, of mild crops and no flips. Expected in the
mean over 1 to 16 shots and seeds 1 to 3: 61.1 % on DTD and 72.4 % on Stanford Cars with CLIP ViT-B/32's features
(zero-shot 44.7 and 58.9 %), 90.1 % on the digits (zero-shot 74.9 %). `docs/best.md` has the tables, and where it
falls short.
"""

from pini_jax.config import default, with_arguments, with_method
from pini_jax.configs import features


def get_config(arguments: str = ""):
    given = [argument for argument in arguments.split(",") if argument]
    of_pack = [argument for argument in given if argument.startswith("path=")]
    config = with_method(features.get_config(",".join(of_pack)) if of_pack else default(), "empirical_bayes")
    return with_arguments(config, ",".join(argument for argument in given if argument not in of_pack))
