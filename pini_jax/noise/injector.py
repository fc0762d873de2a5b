"""The forward pass: a frozen CLIP with noise added between its stages (paper, Figure 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from pini_jax import rng
from pini_jax.clip.towers import TextTower, stage
from pini_jax.data.prompts import Prompts
from pini_jax.errors import InputError
from pini_jax.noise.gaussian import Draw, Gaussian, draw_mean

# Of suffixes, on one CPU: more of them leave its caches. Every part runs the prefix again, which is little.
ROWS_AT_ONCE = 72
Phi = Mapping[str, Mapping]
Text = Prompts | Float[Array, "1 c e"]  # of the classes: to be encoded, or features that are given


@dataclasses.dataclass(frozen=True)
class Injector:
    """What is static about the method; its functions are pure in (phi, theta, inputs, draw).

        prefix, suffix = injector.prompt_tokens(phi, theta, prompts, draw)     # + prompt_tokens noise
        text = encode_prompts(text_tower, theta, prefix, suffix, prompts)      # frozen; or given
        images = injector.image_features(phi, text, features, draw)            # + image_features noise
        logits = cosine_logits(theta, images, text)                            # frozen

    With no generators it is zero-shot CLIP.

    Attributes:
        text_tower: the frozen module whose stages the prompts pass through; None where text features are given.
        generators: site -> module that makes the noise there.
    """

    text_tower: TextTower | None
    generators: FrozenDict[str, nn.Module] = FrozenDict()

    def init(self, key: Array, text: Text) -> dict:
        """Draws phi, the trainables: site -> parameters of its generator.

        Raises:
            InputError: there is prompt noise, but no prompt token for it.
        """
        inputs: dict[str, tuple] = {}
        if "prompt_tokens" in self.generators:
            if not isinstance(text, Prompts):
                raise InputError(
                    "noise at prompt_tokens needs the text tower and one template: use image_features"
                )
            if not len(text.prefix):
                raise InputError("the template has nothing before {}, where the noise of prompt_tokens goes")
            inputs["prompt_tokens"] = (self._prompt_shape(text),)
        shape = (1, len(text.end), self._tower.embed_dim) if isinstance(text, Prompts) else text.shape
        inputs["image_features"] = jnp.zeros((1, shape[-1])), jnp.zeros(shape)
        return {
            site: generator.init(rng.stream(key, site), *inputs[site])["params"]
            for site, generator in self.generators.items()
        }

    @property
    def _tower(self) -> TextTower:
        if self.text_tower is None:
            raise ValueError("prompts need a text tower")
        return self.text_tower

    def _prompt_shape(self, prompts: Prompts) -> tuple[int, int]:
        return len(prompts.prefix), self._tower.sizes.transformer.width

    def _gaussian(self, site: str, phi: Phi, *inputs) -> Gaussian:
        return self.generators[site].apply({"params": phi[site]}, *inputs)

    def prompt_tokens(
        self, phi: Phi, theta: Mapping, prompts: Prompts, draw: Draw = draw_mean
    ) -> tuple[Float[Array, "k a+p d"], Float[Array, "r s d"]]:
        """Embedded prompts: the a start tokens and the prefix, with noise on the latter, and rows of suffixes."""
        shared = jnp.concatenate([prompts.start, prompts.prefix])
        prefix = stage(self._tower, "embed", theta["text"], shared)[None]
        suffix = stage(self._tower, "embed", theta["text"], prompts.suffix, len(shared) + prompts.place)
        if "prompt_tokens" in self.generators:
            noise = draw("prompt_tokens", self._gaussian("prompt_tokens", phi, self._prompt_shape(prompts)))
            prefix = (prefix + jnp.pad(noise, ((0, 0), (len(prompts.start), 0), (0, 0)))).astype(suffix.dtype)
        return prefix, suffix

    def text_features(self, phi: Phi, theta: Mapping, text: Text, draw: Draw = draw_mean) -> Float[Array, "k c e"]:
        """Of every class for every draw of the prompt's noise, un-normalised; what is given stays as it is."""
        if not isinstance(text, Prompts):
            return text
        prefix, suffix = self.prompt_tokens(phi, theta, text, draw)
        return encode_prompts(self._tower, theta, prefix, suffix, text)

    def image_features(
        self, phi: Phi, text: Float[Array, "k c e"], features: Float[Array, "b e"], draw: Draw = draw_mean
    ) -> Float[Array, "n k b e"]:
        """f + mu + sigma z, for n draws given each of the k draws of the text; un-normalised like both inputs."""
        images = features[None, None]
        if "image_features" in self.generators:
            images = images + draw("image_features", self._gaussian("image_features", phi, features, text))
        return images

    def logits(
        self, phi: Phi, theta: Mapping, text: Text, features: Float[Array, "b e"], draw: Draw = draw_mean
    ) -> Float[Array, "n k b c"]:
        """All of the above: what training differentiates."""
        encoded = self.text_features(phi, theta, text, draw)
        return cosine_logits(theta, self.image_features(phi, encoded, features, draw), encoded)


def encode_prompts(
    text_tower: TextTower,
    theta: Mapping,
    prefix: Float[Array, "k p d"],
    suffix: Float[Array, "r s d"],
    prompts: Prompts,
) -> Float[Array, "k c e"]:
    """Text features of every class for every draw of the prefix, un-normalised."""

    def encode(rows: tuple[Array, Array]) -> Float[Array, "k r s d"]:
        return stage(text_tower, "encode_suffixes", theta["text"], prefix, *rows)

    rows = suffix, jnp.asarray(prompts.owner)
    if len(suffix) > ROWS_AT_ONCE and _is_one_cpu() and prefix.ndim == 3:
        parts = jax.lax.map(encode, jax.tree.map(_in_parts, rows))
        tokens = jnp.moveaxis(parts, 0, 1)
    else:
        tokens = encode(rows)
    ends = tokens.reshape(len(prefix), -1, tokens.shape[-1])[:, prompts.end]
    return stage(text_tower, "project", theta["text"], ends)


def _is_one_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _in_parts(x: Float[Array, "r ..."]) -> Float[Array, "parts n ..."]:
    """Parts of one size, of which the last is filled up with the last row."""
    size = -(-len(x) // -(-len(x) // ROWS_AT_ONCE))
    filled = jnp.concatenate([x, jnp.repeat(x[-1:], -len(x) % size, axis=0)])
    return filled.reshape(-1, size, *x.shape[1:])


def cosine_logits(
    theta: Mapping, images: Float[Array, "n k b e"], text: Float[Array, "k c e"]
) -> Float[Array, "n k b c"]:
    """exp(s) cos(image, text) + b, in float32; b is the bias of a CLIP that has one.

    Classes exclude each other here: probabilities are a softmax over them, which b does not change.
    """

    def normalise(x: Array) -> Array:
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    cosine = jnp.einsum("nkbe,kce->nkbc", normalise(images), normalise(text), precision=jax.lax.Precision.HIGHEST)
    logits = jnp.exp(theta["logit_scale"]) * cosine
    return logits + theta["logit_bias"] if "logit_bias" in theta else logits
