"""Prompt templates by name: the texts in which a class name takes the place of `{}`.

| name        | templates | what                                                                       |
| ----------- | --------- | -------------------------------------------------------------------------- |
| released    | 1         | the paper's code: sixteen words x, the dataset's text, the class name last |
| coop        | 1         | the dataset's hand-written template, with which CoOp compares itself       |
| imagenet_7  | 7         | OpenAI's selection from the 80, in the order in which it was made          |
| imagenet_80 | 80        | OpenAI's ensemble                                                          |

Sources: hyzhang98/PiNI, trainers/clip_vpn.py; KaiyangZhou/CoOp, trainers/zsclip.py; openai/CLIP,
notebooks/Prompt_Engineering_for_ImageNet.ipynb. Templates are data: every character is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pini_jax.core.errors import InputError, did_you_mean

CONTEXT = "x " * 16

# What stands before the class name; every other dataset has RELEASED_ELSEWHERE.
RELEASED = {
    "oxford_pets": "a type of pet, a photo of a",
    "oxford_flowers": "a type of flower, a photo of a",
    "fgvc_aircraft": "a type of aircraft, a photo of a",
    "dtd": "texture",
    "eurosat": "a centered satellite photo of",
    "food101": "a type of food, a photo of",
    "ucf101": "a photo of a person doing",
}
RELEASED_ELSEWHERE = "a photo of a"

# Every other dataset has COOP_ELSEWHERE.
COOP = {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "food101": "a photo of {}, a type of food.",
    "ucf101": "a photo of a person doing {}.",
}
COOP_ELSEWHERE = "a photo of a {}."

IMAGENET_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
IMAGENET_80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)


def find_templates(name: str, dataset: str) -> tuple[str, ...]:
    """The templates called `name`, as they are for `dataset`; text that holds `{}` is a template itself.

    Raises:
        InputError: no templates are called that, or the text holds `{}` more than once.
    """
    if name in TABLE:
        return TABLE[name](dataset)
    if "{}" not in name:
        raise InputError(
            f"template {name!r} is no text with {{}} and no name of templates{did_you_mean(name, TABLE)}"
        )
    if name.count("{}") > 1:
        raise InputError(f"template {name!r} must hold {{}} exactly once, where the class name goes")
    return (name,)


def _released(dataset: str) -> tuple[str, ...]:
    return (f"{CONTEXT}{RELEASED.get(dataset, RELEASED_ELSEWHERE)} {{}}.",)


def _coop(dataset: str) -> tuple[str, ...]:
    return (COOP.get(dataset, COOP_ELSEWHERE),)


# {name: dataset -> templates}.
TABLE: Mapping[str, Callable[[str], tuple[str, ...]]] = {
    "released": _released,
    "coop": _coop,
    "imagenet_7": lambda dataset: IMAGENET_7,
    "imagenet_80": lambda dataset: IMAGENET_80,
}
