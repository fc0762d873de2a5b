"""What both sides compute on: sizes of a CLIP, prompts as long as those of real datasets, and random numbers.

Nothing here needs JAX or PyTorch, so that neither is in the other's memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from pini_jax.clip.architecture import Architecture, Image, TextSizes, Transformer
from pini_jax.clip.prompts import Prompts

SEED = 0
BATCH, TEXTS = 32, 256
LR = 0.01
STEPS = {10: 3, 37: 3, 100: 2, 397: 1, 1000: 1}  # whose losses are compared, by the number of classes
VIT_B_16 = Architecture(
    Image(224, 16, Transformer(768, 12, 12, 3072)),
    TextSizes(49408, 77, Transformer(512, 12, 8, 2048, causal=True)),
    512,
)
VIT_B_32 = dataclasses.replace(VIT_B_16, image=dataclasses.replace(VIT_B_16.image, patch_size=32))


class Lengths(NamedTuple):
    """How long the prompts of a dataset are in CLIP's tokens.

    Attributes:
        prefix: tokens between the start token and the class name, in the released template.
        suffix: {tokens of a class name, its full stop and the end token: how many classes have so many}.
    """

    dataset: str
    prefix: int
    suffix: Mapping[int, int]


# By the number of classes. Sources of the names: CoOp's splits of EuroSAT and Pets, FGVC-Aircraft's variants.txt,
# SUN397's ClassName.txt in CoOp's order of words, OpenAI's notebook for ImageNet.
LENGTHS = {
    10: Lengths("EuroSAT", 21, {3: 2, 4: 3, 5: 4, 6: 1}),
    37: Lengths("Pets", 25, {3: 9, 4: 16, 5: 9, 6: 3}),
    100: Lengths("Aircraft", 25, {3: 2, 4: 2, 5: 7, 6: 32, 7: 15, 8: 10, 9: 22, 10: 10}),
    397: Lengths("SUN397", 20, {3: 106, 4: 205, 5: 77, 6: 6, 7: 3}),
    1000: Lengths("ImageNet", 20, {3: 246, 4: 508, 5: 155, 6: 49, 7: 24, 8: 9, 9: 7, 10: 1, 13: 1}),
}


def make_prompts(lengths: Lengths, vocabulary: int) -> Prompts:
    """Random tokens of these lengths between start and end token (the last two ids); a row is a class."""
    chance = np.random.default_rng(SEED)
    start, end = vocabulary - 2, vocabulary - 1
    sizes = chance.permutation(np.repeat([*lengths.suffix], [*lengths.suffix.values()]))
    c, s = len(sizes), sizes.max()
    suffix = chance.integers(1, start, (c, s))
    suffix[np.arange(s) >= sizes[:, None] - 1] = end
    return _prompts([start], chance.integers(1, start, lengths.prefix), suffix, sizes - 1)


def parted(ids: Int[np.ndarray, "c n"]) -> Prompts:
    """From whole sequences, which part at the first token that is not the same in all: the inverse of `whole`."""
    shared, length = (ids == ids[0]).all(0).argmin(), (ids != ids[0, -1]).sum(1)
    return _prompts(ids[0, :1], ids[0, 1:shared], ids[:, shared : length.max() + 1], length - shared)


def _prompts(
    start: ArrayLike, prefix: ArrayLike, suffix: Int[np.ndarray, "c s"], end: Int[np.ndarray, "c"]
) -> Prompts:
    """With a row for every class, whose end token is at `end` of its suffix."""
    c, s = suffix.shape
    places, owners = np.broadcast_to(np.arange(s), (c, s)), np.broadcast_to(np.arange(c)[:, None], (c, s))
    arrays = start, prefix, suffix, places, owners, np.arange(c) * s + end
    return Prompts(*(np.array(x, np.int32) for x in arrays))


def make_texts(vocabulary: int, number: int = TEXTS) -> Prompts:
    """ImageNet's first classes behind the four words of "a photo of a"."""
    many = make_prompts(LENGTHS[1000]._replace(prefix=4), vocabulary)
    rows = {name: getattr(many, name)[:number] for name in ("suffix", "place", "owner", "end")}
    return many._replace(**rows)


def make_pixels(side: int, number: int = BATCH) -> Float[np.ndarray, "b h w 3"]:
    """Images of noise, already normalised."""
    return np.random.default_rng(SEED).standard_normal((number, side, side, 3), np.float32)


class Whole(NamedTuple):
    """The same prompts as they are without this library: whole, and padded.

    Attributes:
        end: the place of the end token.
    """

    ids: Int[np.ndarray, "c n"]
    end: Int[np.ndarray, "c"]


def whole(prompts: Prompts, length: int) -> Whole:
    """[start, prefix, suffix_c, end, end, ...] for every class; `prompts` has a class in every row."""
    (c, s), shared = prompts.suffix.shape, [*prompts.start, *prompts.prefix]
    filling = np.full((c, length - len(shared) - s), prompts.suffix[0, -1])
    ids = np.concatenate([np.tile(shared, (c, 1)), prompts.suffix, filling], axis=1)
    return Whole(ids, len(shared) + prompts.end - np.arange(c) * s)


class Numbers(NamedTuple):
    """The random numbers of a training step.

    Attributes:
        phi: the trainables, as the released noise has them.
        normals: one draw of each site for each of a few steps.
    """

    pixels: Float[np.ndarray, "b h w 3"]
    features: Float[np.ndarray, "b e"]
    labels: Int[np.ndarray, "b"]
    phi: dict
    normals: list[dict[str, np.ndarray]]


def make_numbers(sizes: Architecture, prompts: Prompts, steps: int) -> Numbers:
    """As of the released configuration before the first step, for a batch."""
    chance = np.random.default_rng(SEED + 1)
    e, table = sizes.embed_dim, (len(prompts.prefix), sizes.text.transformer.width)

    def normal(*shape: int) -> np.ndarray:
        return chance.standard_normal(shape, np.float32)

    def uniform(*shape: int) -> np.ndarray:
        return ((2 * chance.random(shape, np.float32) - 1) / np.sqrt(e)).astype(np.float32)

    linears = ("query", "key", "value", "mean", "scale")
    attention = {name: dict(kernel=uniform(e, e), bias=uniform(e)) for name in linears}
    prompt = dict(mean=0.02 * normal(*table), scale=0.02 * normal(*table))
    return Numbers(
        pixels=make_pixels(sizes.image.image_size),
        features=normal(BATCH, e),
        labels=chance.integers(0, len(prompts.end), BATCH).astype(np.int32),
        phi=dict(prompt_tokens=prompt, image_features=attention),
        normals=[
            dict(prompt_tokens=normal(1, *table), image_features=normal(1, 1, BATCH, e)) for _ in range(steps)
        ],
    )
