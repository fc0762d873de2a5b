"""The text step: forwards and backwards through the text tower, on cached features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import flops, inputs
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.tasks import Task
from benchmarks.accelerator.work import Ahead, Row, Work, frozen, of_peak, tower_dtype, work
from pini_jax.clip import prompts, towers
from pini_jax.methods import forward
from pini_jax.methods.method import Batch, Text, Variables
from pini_jax.methods.pini import Injector
from pini_jax.noise import sites
from pini_jax.noise.draws import draw_batch, draw_replay

NOISE = {
    "prompt_tokens": {"generator": "table"},
    "image_features": {"generator": "cross_attention"},
}  # as released


class Variant(NamedTuple):
    """Which step.

    Attributes:
        tower: a name of `sizes.SIZES`.
        remat: whether layers are computed again on the way back.
        row: tokens of a packed row; 0 leaves every class a row of its own.
    """

    tower: str
    classes: int
    remat: bool = False
    row: int = prompts.ROW


class TextStep(NamedTuple):
    """(phi, theta, text, batch, key) -> (phi, loss), with what it is called with; the released noise.

    Attributes:
        flops, num_bytes: that it needs at least, as `benchmarks.flops` counts.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    flops: float
    num_bytes: float


@functools.cache
def text_step(variant: Variant) -> TextStep:
    """With random weights, and with noise that a key draws."""
    return make_step(variant, weights(variant.tower))


def replay_step(name: str, classes: int, theta: Any) -> TextStep:
    """A step with these weights, and with given draws, which another library can take too.

    Args:
        theta: of the text tower.
    """
    return make_step(Variant(name, classes), theta, replays=True)


def make_step(variant: Variant, theta: Any, replays: bool = False) -> TextStep:
    """A step on cached features: forwards, the gradient of the trainables, and plain SGD.

    Args:
        theta: of the text tower.
        replays: whether normals stand in the key's place.
    """
    sizes, classes = SIZES[variant.tower], variant.classes
    apart = inputs.make_prompts(inputs.LENGTHS[classes], sizes.text.vocab_size)
    rows = prompts.pack(apart, room=variant.row) if variant.row else apart
    numbers = inputs.make_numbers(sizes, apart, steps=1)
    tower = towers.TextTower(sizes.text, sizes.embed_dim, tower_dtype(), remat=variant.remat)
    method = Injector(tower, sites.build_noise(sites.noise_with_defaults(NOISE)))

    def call(phi: Any, theta: Any, text: Text, batch: Batch, drawn: Any) -> tuple[Any, Any]:
        def loss(phi: Any) -> Any:
            draw = draw_replay(drawn) if replays else draw_batch(drawn, len(batch.labels), {})
            return forward.loss(method, Variables(phi), theta, text, batch, draw)[0].loss

        value, gradient = jax.value_and_grad(loss)(phi)
        return jax.tree.map(lambda w, g: w - 1e-3 * g, phi, gradient), value

    # Plain CLIP's features of the classes are nothing to this noise.
    text = Text(np.zeros((1, classes, sizes.embed_dim), np.float32), rows)
    batch = Batch(numbers.features, numbers.labels, np.ones(len(numbers.labels), np.float32))
    drawn = numbers.normals[0] if replays else jax.random.key(1)
    arguments = (numbers.phi, {"text": theta, "logit_scale": np.float32(np.log(100))}, text, batch, drawn)
    packed = prompts.pack(apart)
    needed = flops.step_flops(sizes, packed), flops.step_bytes(sizes, packed, tower.dtype.itemsize)
    return TextStep(call, arguments, *needed)


@functools.cache
def text_work(variant: Variant) -> Work:
    """A `text_step`, compiled."""
    step = text_step(variant)
    return work(step.call, *step.arguments)


@functools.cache
def weights(name: str) -> Any:
    """Random ones of a text tower."""
    sizes = SIZES[name]
    tower = towers.TextTower(sizes.text, sizes.embed_dim, tower_dtype())
    return frozen(tower.init, np.zeros((1, sizes.text.context_length), np.int32), np.zeros(1, np.int32))


def text_works(variants: Iterable[Variant]) -> dict[Hashable, Callable[[], Work]]:
    """What compiles each of them once."""
    return {variant: functools.partial(text_work, variant) for variant in variants}


def tasks(scale: Scale) -> Iterator[Task]:
    """Steps by tower and number of classes."""
    for name in scale.texts:
        variants = [Variant(name, classes) for classes in scale.classes]
        works = Ahead(text_works(variants), first=functools.partial(weights, name))
        for variant in variants:
            told = dict(tower=name, classes=variant.classes)
            yield Task(told, functools.partial(measure, scale, works, variant))


def measure(scale: Scale, works: Ahead, variant: Variant) -> Iterator[Row]:
    """A step, its share of the peak, and its loss."""
    found = works[variant]
    measured, loss = found.measured, float(found.compiled(*found.arguments)[1])
    yield dict(loss=loss) | measured | of_peak(scale, text_step(variant).flops, measured["ms"])
