"""The order of the stages: from images and class texts to logits, and to the loss.

    theta = method.adapt(variables, theta)                                   # CLIP-LoRA
    prefix, suffix = method.prompt_tokens(variables, theta, text, draw)      # prompt noise, CoOp
    text = method.encode_prompts(theta, prefix, suffix, prompts)             # the text tower
    text = method.text_features(variables, text, draw)                       # text noise, TaskRes
    features, _ = method.encode_images(variables, theta, text, pixels, draw) # noise of pixels and patches
    images = method.image_features(variables, text, features, draw)          # image noise, CLIP-Adapter
    logits = method.logits(variables, theta, images, text, draw)             # Tip-Adapter, GDA

Shapes: as in `core.shapes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.core.shapes import Numbers, Parameters
from pini_jax.methods.method import Batch, Method, Text, Variables
from pini_jax.methods.objective import Parts, objective
from pini_jax.noise.draws import Draw, draw_mean
from pini_jax.noise.gaussian import Gaussian

Call = Callable[..., Any]  # (name of a stage, method, *inputs) -> what the stage returns


def directly(name: str, method: Method, *inputs: Any) -> Any:
    """Calls a stage directly, without compiling it."""
    return getattr(method, name)(*inputs)


def encode_text(
    method: Method,
    variables: Variables,
    theta: Parameters,
    text: Text,
    draw: Draw = draw_mean,
    call: Call = directly,
) -> Float[Array, "k c e"]:
    """Features of every class for every draw of the texts' noise.

    Args:
        theta: as `method.adapt` leaves it.
        call: how a stage is called: directly, or compiled alone.
    """
    features = text.features
    if text.prompts is not None:
        prefix, suffix = call("prompt_tokens", method, variables, theta, text, draw)
        features = call("encode_prompts", method, theta, prefix, suffix, text.prompts)
    return call("text_features", method, variables, features, draw)


def classify(
    method: Method,
    variables: Variables,
    theta: Parameters,
    text: Float[Array, "k c e"],
    images: Float[Numbers, "b *x"],
    draw: Draw = draw_mean,
    weights: Float[Numbers, "b"] | None = None,
    call: Call = directly,
) -> tuple[Float[Array, "n _ b c"], Parameters]:
    """Logits of images for every draw, and the updated buffers.

    Args:
        theta, call: as in `encode_text`, which has made `text`.
        weights: of the images of a training step; None in prediction.
    """
    features, buffers = jnp.asarray(images)[None, None], variables.buffers
    if method.traits.reads == "pixels":
        features, buffers = call("encode_images", method, variables, theta, text, images, draw, weights)
    features = call("image_features", method, variables, text, features, draw)
    return call("logits", method, variables, theta, features, text, draw), buffers


def forward(
    method: Method,
    variables: Variables,
    theta: Parameters,
    text: Text,
    images: Float[Numbers, "b *x"],
    draw: Draw = draw_mean,
    weights: Float[Numbers, "b"] | None = None,
) -> tuple[Float[Array, "n _ b c"], Parameters]:
    """Runs all stages: logits for every draw, and the updated buffers."""
    theta = method.adapt(variables, theta)
    encoded = encode_text(method, variables, theta, text, draw)
    return classify(method, variables, theta, encoded, images, draw, weights)


def loss(
    method: Method, variables: Variables, theta: Parameters, text: Text, batch: Batch, draw: Draw
) -> tuple[Parts, Parameters]:
    """The parts of the loss that training minimises, and the updated buffers."""
    noise: dict[str, Gaussian] = {}

    def watched(site: str, gaussian: Gaussian) -> Array:
        noise[site] = gaussian
        return draw(site, gaussian)

    logits, buffers = forward(method, variables, theta, text, batch.images, watched, batch.weights)
    penalty = jnp.asarray(method.penalty(variables, theta, text, noise, batch.weights))
    return objective(logits, batch.labels, batch.weights, method.loss_settings, penalty), buffers
