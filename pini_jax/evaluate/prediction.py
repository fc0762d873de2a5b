"""Prediction over a split, every example exactly once."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int

from pini_jax.clip import zero_shot
from pini_jax.core import mesh as meshes
from pini_jax.core import rng
from pini_jax.core.errors import InputError
from pini_jax.methods.method import Method, Text, Variables
from pini_jax.noise.gaussian import Draw, draw_fresh, draw_mean, draw_per_image

MODES = ("mean", "sample", "marginal")
BATCH = 256
PIXEL_BATCH = 64


class Images(Protocol):
    """Features, or pixels that are read when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, ids: Int[np.ndarray, "b"], /) -> Any:
        """Those of these numbers, [b *x]."""


class Predictions(NamedTuple):
    """What k draws say of every image.

    Attributes:
        log_probabilities: log mean_k q_k.
        expected: mean_k log q_k.
    """

    log_probabilities: Float[np.ndarray, "b c"]
    expected: Float[np.ndarray, "b c"]


# The forward pass is compiled stage by stage, so that zero-shot CLIP and zero noise run the same programs: in one
# program the noise would be fused into what follows it, and change the order of its sums.
_encode_prompts = jax.jit(zero_shot.encode_prompts, static_argnums=0)


def _of_text(key: Array | None) -> Draw:
    return draw_mean if key is None else draw_fresh(key, {})


def _of_images(key: Array | None, ids: Array) -> Draw:
    return draw_mean if key is None else draw_per_image(key, ids)


@functools.partial(jax.jit, static_argnums=0)
def _prompt_tokens(method: Method, variables, theta, text, key):
    return method.prompt_tokens(variables, theta, text, _of_text(key))


@functools.partial(jax.jit, static_argnums=0)
def _text_features(method: Method, variables, text, key):
    return method.text_features(variables, text, _of_text(key))


@functools.partial(jax.jit, static_argnums=0)
def _encode_images(method: Method, variables, theta, text, pixels, ids, keys):
    """One draw after another, each of which takes the image tower; what they share is computed once."""

    def one(of_draw):
        text, key = of_draw
        return method.encode_images(variables, theta, text[None], pixels, _of_images(key, ids))[0][0, 0]

    return jax.lax.map(one, (text, keys))[None]


@functools.partial(jax.jit, static_argnums=0)
def _image_features(method: Method, variables, text, features, ids, key):
    return method.image_features(variables, text, features, _of_images(key, ids))


@functools.partial(jax.jit, static_argnums=0)
def _logits(method: Method, variables, theta, images, text):
    return method.logits(variables, theta, images, text)


def _draw_keys(key: Array, num_draws: int) -> Array:
    """A key for every draw."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_draws))


def encode_text(
    method: Method, variables: Variables, theta: Mapping, text: Text, num_draws: int = 1, key: Array | None = None
) -> Float[Array, "k c e"]:
    """Text features of every class for every draw; without a key, of the mean."""
    draws = []
    for i in range(num_draws):
        of_draw = None if key is None else jax.random.fold_in(key, i)
        encoded = text.features
        if text.prompts is not None:
            prefix, suffix = _prompt_tokens(method, variables, theta, text, of_draw)
            encoded = _encode_prompts(method.text_tower, theta, prefix, suffix, text.prompts)
        draws.append(_text_features(method, variables, encoded, of_draw))
    return jnp.concatenate(draws)


def predict(
    method: Method,
    variables: Variables,
    theta: Mapping,
    text: Text,
    images: Images,
    mode: str,
    num_draws: int,
    seed: int,
    batch_size: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> Predictions:
    """q_k = softmax(logits_k) of every image: the same whatever the batch size.

    Args:
        mode: `mean` adds mu and no draw; `sample` draws once, as the released code does; `marginal` draws
            `num_draws` times.
        batch_size: 0 takes what suits the method.
        mesh: over whose devices the images of a batch are split; None takes JAX's default device.

    Raises:
        InputError: an unknown mode.
    """
    if mode not in MODES:
        raise InputError(f"mode={mode!r} is none of {', '.join(MODES)}")
    reads_pixels = "pixels" in method.needs
    theta = method.adapt(variables, theta)
    root = rng.stream(rng.root(seed), "predict")
    still = mode == "mean" or not method.is_random
    text_key, image_key = (None if still else rng.stream(root, x) for x in ("text", "image"))
    num_draws = num_draws if mode == "marginal" and method.is_random else 1
    encoded = encode_text(method, variables, theta, text, num_draws, text_key)
    batch_size = batch_size or (PIXEL_BATCH if reads_pixels else BATCH)
    if mesh is not None:
        batch_size += -batch_size % meshes.batch_shards(mesh)

    def logits(images: Array, ids: Array) -> Float[Array, "1 k b c"]:
        features = images[None, None]
        if reads_pixels:
            keys = None if image_key is None else _draw_keys(image_key, num_draws)
            features = _encode_images(method, variables, theta, encoded, images, ids, keys)
        found = _image_features(method, variables, encoded, features, ids, image_key)
        return _logits(method, variables, theta, found, encoded)

    def batch(ids: Int[np.ndarray, "b"]) -> Float[np.ndarray, "2 b c"]:
        # The last batch is filled with the last image.
        inputs = images[np.minimum(ids, len(images) - 1)], ids
        found = logits(*(inputs if mesh is None else meshes.shard(mesh, inputs)))
        log_q = scipy.special.log_softmax(meshes.fetch(found)[0], axis=-1)
        return np.stack([scipy.special.logsumexp(log_q, axis=0) - np.log(len(log_q)), log_q.mean(0)])

    starts = range(0, len(images), batch_size)
    found = np.concatenate([batch(np.arange(start, start + batch_size)) for start in starts], axis=1)
    return Predictions(*found[:, : len(images)])
