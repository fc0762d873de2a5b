"""Prediction over a split, every example exactly once, and its metrics."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int

from pini_jax import mesh as meshes
from pini_jax import rng
from pini_jax.data.prompts import Prompts
from pini_jax.errors import InputError
from pini_jax.noise.gaussian import draw_fresh, draw_mean, draw_per_image
from pini_jax.noise.injector import Injector, Phi, Text, cosine_logits, encode_prompts

MODES = ("mean", "sample", "marginal")
BATCH = 256


# The forward pass is compiled stage by stage, so that zero-shot CLIP and zero noise run the same programs: in one
# program the noise would be fused into what follows it, and change the order of its sums.
_encode_prompts = jax.jit(encode_prompts, static_argnums=0)
_cosine_logits = jax.jit(cosine_logits)


@functools.partial(jax.jit, static_argnums=0)
def _prompt_tokens(injector: Injector, phi, theta, prompts, key):
    return injector.prompt_tokens(phi, theta, prompts, draw_mean if key is None else draw_fresh(key, {}))


@functools.partial(jax.jit, static_argnums=0)
def _image_features(injector: Injector, phi, text, features, ids, key):
    return injector.image_features(phi, text, features, draw_mean if key is None else draw_per_image(key, ids))


def _text_features(injector: Injector, phi, theta, text: Text, num_draws: int, key) -> Float[Array, "k c e"]:
    draws = []
    for i in range(num_draws):
        if isinstance(text, Prompts):
            of_draw = None if key is None else jax.random.fold_in(key, i)
            prefix, suffix = _prompt_tokens(injector, phi, theta, text, of_draw)
            draws.append(_encode_prompts(injector.text_tower, theta, prefix, suffix, text))
        else:
            draws.append(text)
    return jnp.concatenate(draws)


def predict(
    injector: Injector,
    phi: Phi,
    theta: Mapping,
    text: Text,
    features: Float[np.ndarray, "b e"],
    mode: str,
    num_draws: int,
    seed: int,
    batch_size: int = BATCH,
    mesh: jax.sharding.Mesh | None = None,
) -> Float[np.ndarray, "b c"]:
    """log mean_k softmax(logits_k) for every image: the same whatever the batch size.

    Args:
        mesh: over whose devices the images of a batch are split; None takes JAX's default device.
        mode: `mean` adds mu and no draw; `sample` draws once, as the released code does; `marginal` averages
            the probabilities over `num_draws` draws.

    Raises:
        InputError: an unknown mode.
    """
    if mode not in MODES:
        raise InputError(f"mode={mode!r} is none of {', '.join(MODES)}")
    root = rng.stream(rng.root(seed), "predict")
    text_key, image_key = (None if mode == "mean" else rng.stream(root, x) for x in ("text", "image"))
    encoded = _text_features(injector, phi, theta, text, num_draws if mode == "marginal" else 1, text_key)

    if mesh is not None:
        batch_size += -batch_size % meshes.batch_shards(mesh)

    def batch(ids: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b c"]:
        # The last batch is filled with the last image.
        inputs = features[np.minimum(ids, len(features) - 1)], ids
        features_of, placed = inputs if mesh is None else meshes.shard(mesh, inputs)
        images = _image_features(injector, phi, encoded, features_of, placed, image_key)
        logits = meshes.fetch(_cosine_logits(theta, images, encoded))[0]
        return scipy.special.logsumexp(scipy.special.log_softmax(logits, axis=-1), axis=0) - np.log(len(logits))

    starts = range(0, len(features), batch_size)
    return np.concatenate([batch(np.arange(start, start + batch_size)) for start in starts])[: len(features)]
