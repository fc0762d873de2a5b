"""The text step: forwards and backwards through the text tower, on cached features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import flops, inputs
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.sizes import SIZES
from benchmarks.accelerator.work import Row, of_peak, tower_dtype, work
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


class TextStep(NamedTuple):
    """(phi, theta, text, batch, key) -> (phi, loss), with what it is called with; the released noise.

    Attributes:
        flops, num_bytes: that it needs at least, as `benchmarks.flops` counts.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    flops: float
    num_bytes: float


def text_step(name: str, classes: int, remat: bool = False, packed: bool = True, theta: Any = None) -> TextStep:
    """A step on cached features: forwards, the gradient of the trainables, and plain SGD.

    Args:
        theta: of the text tower, for a step with given draws, which another library can take too: normals stand in
            the key's place. None draws weights and noise.
    """
    sizes, replays = SIZES[name], theta is not None
    apart = inputs.make_prompts(inputs.LENGTHS[classes], sizes.text.vocab_size)
    rows, numbers = prompts.pack(apart), inputs.make_numbers(sizes, apart, steps=1)
    tower = towers.TextTower(sizes.text, sizes.embed_dim, tower_dtype(), remat=remat)
    method = Injector(tower, sites.build_noise(sites.noise_with_defaults(NOISE)))

    def call(phi: Any, theta: Any, text: Text, batch: Batch, drawn: Any) -> tuple[Any, Any]:
        def loss(phi: Any) -> Any:
            draw = draw_replay(drawn) if replays else draw_batch(drawn, len(batch.labels), {})
            return forward.loss(method, Variables(phi), theta, text, batch, draw)[0].loss

        value, gradient = jax.value_and_grad(loss)(phi)
        return jax.tree.map(lambda w, g: w - 1e-3 * g, phi, gradient), value

    # Plain CLIP's features of the classes are nothing to this noise.
    text = Text(np.zeros((1, classes, sizes.embed_dim), np.float32), rows if packed else apart)
    batch = Batch(numbers.features, numbers.labels, np.ones(len(numbers.labels), np.float32))
    theta = {"text": theta if replays else weights(tower), "logit_scale": np.float32(np.log(100))}
    drawn = numbers.normals[0] if replays else jax.random.key(1)
    needed = flops.step_flops(sizes, rows), flops.step_bytes(sizes, rows, tower.dtype.itemsize)
    return TextStep(call, (numbers.phi, theta, text, batch, drawn), *needed)


def weights(tower: towers.TextTower) -> Any:
    """Random ones, with layers in the tower's dtype."""
    ids, end = np.zeros((1, tower.sizes.context_length), np.int32), np.zeros(1, np.int32)
    theta = jax.jit(tower.init)(jax.random.key(0), ids, end)["params"]
    return theta | {"blocks": jax.tree.map(lambda x: x.astype(tower.dtype), theta["blocks"])}


def measure(scale: Scale) -> Iterator[Row]:
    """Steps by tower and number of classes."""
    for name in scale.texts:
        for classes in scale.classes:
            step = text_step(name, classes)
            found = work(step.call, *step.arguments)
            measured = found.measured
            loss = float(found.compiled(*found.arguments)[1])
            told = dict(tower=name, classes=classes, loss=loss)
            yield told | measured | of_peak(scale, step.flops, measured["ms"])
