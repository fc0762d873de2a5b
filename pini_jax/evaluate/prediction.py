"""Prediction over a split, every example exactly once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from pini_jax.core import mesh as meshes
from pini_jax.core import rng, stop
from pini_jax.core.errors import InputError
from pini_jax.core.shapes import Parameters
from pini_jax.methods import forward
from pini_jax.methods.method import Method, Text, Variables
from pini_jax.noise.draws import Mean, PerImage, draw_fresh, draw_mean, draw_per_image
from pini_jax.task.frozen import Images

MODES = ("mean", "sample", "marginal")
BATCHES = {"features": (1, 16, 256), "pixels": (1, 8, 16, 32, 64)}  # sizes that programs are compiled for


class Predictions(NamedTuple):
    """The predictions of k draws for every image.

    Attributes:
        log_probabilities: log mean_k q_k.
        expected: mean_k log q_k.
        draw_entropy: mean_k H(q_k).
        energy: mean_k log sum_c exp(logit_kc).
        match: max_c of the softmax of log_probabilities over CLIP's scale: of cosines, for zero-shot CLIP.
    """

    log_probabilities: Float[np.ndarray, "b c"]
    expected: Float[np.ndarray, "b c"]
    draw_entropy: Float[np.ndarray, "b"]
    energy: Float[np.ndarray, "b"]
    match: Float[np.ndarray, "b"]


# The forward pass is compiled stage by stage, so that zero-shot CLIP and zero noise run the same programs: in one
# program the noise would be fused into what follows it, and change the order of its sums.
def compiled_alone(name: str, method: Method, *inputs: Any) -> Any:
    """Runs a stage as a compiled program of its own; the image tower takes one draw after another."""
    return _program(name)(method, *inputs)


@functools.cache
def _program(name: str) -> Callable[..., Any]:
    stage = _encode_images if name == "encode_images" else functools.partial(forward.directly, name)
    return jax.jit(stage, static_argnums=0)


def _encode_images(
    method: Method,
    variables: Variables,
    theta: Parameters,
    text: Float[Array, "k c e"],
    pixels: Float[Array, "b h w 3"],
    draw: Mean | PerImage,
    weights: None,
) -> tuple[Float[Array, "1 k b e"], Parameters]:
    """The stage for every draw of the texts; what draws share is computed once."""

    def encode(of_draw: tuple[Array, Mean | PerImage]) -> Float[Array, "b e"]:
        text, draw = of_draw
        return method.encode_images(variables, theta, text[None], pixels, draw, weights)[0][0, 0]

    return jax.lax.map(encode, (text, draw.split(len(text))))[None], variables.buffers


class Drawn(NamedTuple):
    """What a mode draws and encodes once for all images.

    Attributes:
        theta: as `method.adapt` leaves it.
        text: features of every class for every draw.
        key: of the images' draws; None where nothing is drawn.
    """

    theta: Parameters
    text: Float[Array, "k c e"]
    key: Array | None


def encode_text_draws(
    method: Method,
    variables: Variables,
    theta: Parameters,
    text: Text,
    num_draws: int = 1,
    key: Array | None = None,
) -> Float[Array, "k c e"]:
    """Text features of every class for every draw; without a key, of the mean."""
    draws = [draw_mean if key is None else draw_fresh(jax.random.fold_in(key, i), {}) for i in range(num_draws)]
    return jnp.concatenate(
        [forward.encode_text(method, variables, theta, text, draw, compiled_alone) for draw in draws]
    )


def predict(
    method: Method,
    variables: Variables,
    theta: Parameters,
    text: Text,
    images: Images,
    mode: str,
    num_draws: int,
    seed: int,
    batch_size: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    numbers: Int[np.ndarray, "b"] | None = None,
) -> Predictions:
    """q_k = softmax(logits_k) for every image; `draw`, then `predict_drawn`.

    Raises:
        InputError: an unknown mode.
    """
    drawn = draw(method, variables, theta, text, mode, num_draws, seed)
    return predict_drawn(method, variables, drawn, images, batch_size, mesh, numbers)


def draw(
    method: Method, variables: Variables, theta: Parameters, text: Text, mode: str, num_draws: int, seed: int
) -> Drawn:
    """Makes the draws that are needed before images are classified.

    Args:
        mode: `mean` adds mu and no draw; `sample` draws once, as the released code does; `marginal` draws
            `num_draws` times.

    Raises:
        InputError: an unknown mode.
    """
    if mode not in MODES:
        raise InputError(f"mode={mode!r} is none of {', '.join(MODES)}")
    theta = method.adapt(variables, theta)
    still = mode == "mean" or not method.traits.is_random
    text_key, image_key = (None, None) if still else _keys(seed)
    num_draws = num_draws if mode == "marginal" and method.traits.is_random else 1
    return Drawn(theta, encode_text_draws(method, variables, theta, text, num_draws, text_key), image_key)


def _keys(seed: int) -> tuple[Array, Array]:
    """Of the texts' draws, and of the images'."""
    root = rng.stream(rng.root(seed), "predict")
    return rng.stream(root, "text"), rng.stream(root, "image")


def predict_drawn(
    method: Method,
    variables: Variables,
    drawn: Drawn,
    images: Images,
    batch_size: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    numbers: Int[np.ndarray, "b"] | None = None,
) -> Predictions:
    """q_k = softmax(logits_k) for every image; independent of the batch size, up to rounding.

    Args:
        batch_size: 0 takes one of a few sizes that suits the method and the images.
        mesh: over whose devices the images of a batch are split; None takes JAX's default device.
        numbers: of the images, where these are some of many: every number has draws of its own.
    """
    size = batch_size or batch_size_for(method, len(images))
    if mesh is not None:
        size += -size % meshes.batch_shards(mesh)
    numbers = np.arange(len(images)) if numbers is None else numbers
    scale = float(np.exp(meshes.fetch(drawn.theta["logit_scale"])))

    def batch(ids: Int[np.ndarray, "b"]) -> Predictions:
        stop.raise_if_requested()
        # The last batch is filled with the last image.
        taken = np.minimum(ids, len(images) - 1)
        inputs = images[taken], numbers[taken]
        x, ids = inputs if mesh is None else meshes.shard(mesh, inputs)
        noise = draw_mean if drawn.key is None else draw_per_image(drawn.key, ids)
        logits, _ = forward.classify(method, variables, drawn.theta, drawn.text, x, noise, call=compiled_alone)
        return summary(logits[0], scale)

    predicted = [batch(np.arange(start, start + size)) for start in range(0, len(images), size)]
    return Predictions(*(np.concatenate(parts)[: len(images)] for parts in zip(*predicted, strict=True)))


def summary(logits: Float[ArrayLike, "k b c"], scale: float) -> Predictions:
    """The `Predictions` from the logits of k draws; computed on the device, so that only the results are
    transferred.
    """
    return Predictions(*map(meshes.fetch, _summary(logits, scale)))


@jax.jit
def _summary(logits: Float[Array, "k b c"], scale: Float[Array, ""]) -> tuple[Array, ...]:
    log_q = jax.nn.log_softmax(logits)
    log_p = jax.nn.logsumexp(log_q, axis=0) - np.log(len(log_q))
    entropy = -(jnp.exp(log_q) * log_q).sum(-1)
    energy = jax.nn.logsumexp(logits, axis=-1)
    match = jax.nn.softmax(log_p / scale).max(-1)
    return log_p, log_q.mean(0), entropy.mean(0), energy.mean(0), match


def batch_size_for(method: Method, num_images: int) -> int:
    """The smallest of a few batch sizes that holds this many images, or else the largest."""
    sizes = BATCHES[method.traits.reads]
    return next((size for size in sizes if num_images <= size), sizes[-1])
