"""Prediction over a split, every example exactly once, and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Float, Int

from pini_jax import rng
from pini_jax.data.prompts import Prompts
from pini_jax.noise.gaussian import draw_fresh, draw_mean, draw_per_image
from pini_jax.noise.injector import Injector, Phi, cosine_logits

MODES = ("mean", "sample", "marginal")
BATCH = 256


class _Programs(NamedTuple):
    """The forward pass compiled stage by stage, so that zero-shot CLIP and zero noise run the same programs.

    Compiled as one, the noise would be fused into what follows it, and change the order of its sums.
    """

    prompt_tokens: Callable
    encode_prompts: Callable
    image_features: Callable
    logits: Callable


def _compile(injector: Injector) -> _Programs:
    def prompt_tokens(phi, theta, prompts, key):
        draw = draw_mean if key is None else draw_fresh(key, {})
        return injector.prompt_tokens(phi, theta, prompts, draw)

    def image_features(phi, text, features, ids, key):
        draw = draw_mean if key is None else draw_per_image(key, ids)
        return injector.image_features(phi, text, features, draw)

    programs = prompt_tokens, injector.encode_prompts, image_features, cosine_logits
    return _Programs(*map(jax.jit, programs))


def predict(
    injector: Injector,
    phi: Phi,
    theta: Mapping,
    prompts: Prompts,
    features: Float[np.ndarray, "b e"],
    mode: str,
    num_draws: int,
    seed: int,
    batch_size: int = BATCH,
) -> Float[np.ndarray, "b c"]:
    """log mean_k softmax(logits_k) for every image: the same whatever the batch size.

    Args:
        mode: `mean` adds mu and no draw; `sample` draws once, as the released code does; `marginal` averages
            the probabilities over `num_draws` draws.
    """
    programs = _compile(injector)
    root = rng.stream(rng.root(seed), "predict")
    text_key, image_key = (None if mode == "mean" else rng.stream(root, x) for x in ("text", "image"))
    draws = []
    for i in range(num_draws if mode == "marginal" else 1):
        key = None if text_key is None else jax.random.fold_in(text_key, i)
        prefix, suffix = programs.prompt_tokens(phi, theta, prompts, key)
        draws.append(programs.encode_prompts(theta, prefix, suffix, prompts.end))
    text = jnp.concatenate(draws)

    def batch(ids: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b c"]:
        # The last batch is filled with the last image.
        images = programs.image_features(phi, text, features[np.minimum(ids, len(features) - 1)], ids, image_key)
        logits = np.asarray(programs.logits(theta["logit_scale"], images, text))[0]
        return scipy.special.logsumexp(scipy.special.log_softmax(logits, axis=-1), axis=0) - np.log(len(logits))

    starts = range(0, len(features), batch_size)
    return np.concatenate([batch(np.arange(start, start + batch_size)) for start in starts])[: len(features)]
