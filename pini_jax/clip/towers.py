"""The two towers of CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

Each tower comes in stages, embed -> encode -> project, so that noise is a `+` between two calls:

    tokens = stage(tower, "embed", theta, pixels)
    tokens = tokens + noise
    features = stage(tower, "project", theta, stage(tower, "encode", theta, tokens))

Towers are pure functions of (parameters, inputs): no key, no training mode. The blocks of a tower share one
set of stacked parameters with a leading `layers` axis and run in one scan.

Shapes: b images, c classes, k noise draws, n patches, p prefix tokens, s suffix tokens, d width, e embedding.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pini_jax.clip import architecture
from pini_jax.clip.resnet import ResNetTower

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def stage(tower: nn.Module, name: str, params, *inputs):
    """Runs one stage of a tower: stage(params, inputs), with nothing else in between."""
    return tower.apply({"params": params}, *inputs, method=name)


def _softmax(scores: Array) -> Array:
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(scores.dtype)


def _causal(length: int) -> Array:
    return jnp.tril(jnp.ones((length, length), bool))


class Block(nn.Module):
    """x <- x + attention(norm(x));  x <- x + mlp(norm(x))."""

    sizes: architecture.Transformer
    dtype: jnp.dtype

    def setup(self):
        width, heads = self.sizes.width, self.sizes.heads
        norm = dict(epsilon=self.sizes.epsilon, use_fast_variance=False, dtype=self.dtype)
        self.norm_1 = nn.LayerNorm(**norm)
        self.norm_2 = nn.LayerNorm(**norm)
        self.qkv = nn.DenseGeneral((3, heads, width // heads), dtype=self.dtype)
        self.out = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype)
        self.mlp_in = nn.Dense(self.sizes.mlp_width, dtype=self.dtype)
        self.mlp_out = nn.Dense(width, dtype=self.dtype)

    def _heads(self, x: Array) -> tuple[Array, Array, Array]:
        """Queries, scaled by 1/sqrt(channels), keys and values [..., tokens, heads, channels]."""
        query, key, value = jnp.moveaxis(self.qkv(self.norm_1(x)), -3, 0)
        return query * query.shape[-1] ** -0.5, key, value

    def _finish(self, x: Array, attended: Array) -> Array:
        x = x + self.out(attended)
        return x + self.mlp_out(ACTIVATIONS[self.sizes.activation](self.mlp_in(self.norm_2(x))))

    def _self_attention(self, query: Array, key: Array, value: Array) -> Array:
        scores = jnp.einsum("...qhz,...jhz->...hqj", query, key)
        if self.sizes.causal:
            scores = jnp.where(_causal(query.shape[-3]), scores, -jnp.inf)
        return jnp.einsum("...hqj,...jhz->...qhz", _softmax(scores), value)

    def __call__(self, x: Array) -> Array:
        return self._finish(x, self._self_attention(*self._heads(x)))

    def shared_prefix(self, prefix: Array, suffix: Array) -> tuple[Array, Array]:
        """The block over the sequences [prefix, suffix_1], ..., [prefix, suffix_c]; the prefix runs once."""
        prefix_query, prefix_key, prefix_value = self._heads(prefix)
        query, key, value = self._heads(suffix)
        to_prefix = jnp.einsum("kcqhz,kjhz->kchqj", query, prefix_key)
        to_suffix = jnp.einsum("kcqhz,kcjhz->kchqj", query, key)
        to_suffix = jnp.where(_causal(query.shape[-3]), to_suffix, -jnp.inf)
        weights = _softmax(jnp.concatenate([to_prefix, to_suffix], axis=-1))
        p = prefix.shape[-2]
        attended = jnp.einsum("kchqj,kjhz->kcqhz", weights[..., :p], prefix_value)
        attended += jnp.einsum("kchqj,kcjhz->kcqhz", weights[..., p:], value)
        prefix = self._finish(prefix, self._self_attention(prefix_query, prefix_key, prefix_value))
        return prefix, self._finish(suffix, attended)


def _scan(block: Block, body, carry):
    """carry <- body(block of layer i, carry) for every layer in order."""
    scan = nn.scan(
        lambda block, carry, _: (body(block, carry), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=block.sizes.layers,
    )
    return scan(block, carry, None)[0]


class ImageTower(nn.Module):
    """V(x) = W norm(encode(norm([class, patches(x)] + position)))_class."""

    sizes: architecture.Image
    embed_dim: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        transformer = self.sizes.transformer
        width = transformer.width
        init = nn.initializers.normal(width**-0.5)
        norm = dict(epsilon=transformer.epsilon, use_fast_variance=False, dtype=self.dtype)
        self.patch_embedding = nn.Dense(width, use_bias=False, dtype=self.dtype)
        self.class_embedding = self.param("class_embedding", init, (width,))
        self.position = self.param("position", init, (self.sizes.num_patches + 1, width))
        self.norm_in = nn.LayerNorm(**norm)
        self.blocks = Block(transformer, self.dtype)
        self.norm_out = nn.LayerNorm(**norm)
        self.projection = nn.Dense(self.embed_dim, use_bias=False, dtype=self.dtype)

    def embed(self, pixels: Float[Array, "*k b h w 3"]) -> Float[Array, "*k b n+1 d"]:
        """Patches as tokens, after the class token, with positions, through the first norm."""
        p = self.sizes.patch_size
        *lead, h, w, channels = pixels.shape
        patches = pixels.astype(self.dtype).reshape(*lead, h // p, p, w // p, p, channels)
        patches = jnp.swapaxes(patches, -4, -3).reshape(*lead, self.sizes.num_patches, p * p * channels)
        patches = self.patch_embedding(patches)
        first = jnp.broadcast_to(self.class_embedding.astype(self.dtype), (*lead, 1, patches.shape[-1]))
        tokens = jnp.concatenate([first, patches], axis=-2)
        return self.norm_in(tokens + self.position.astype(self.dtype))

    def encode(self, tokens: Float[Array, "*k b n+1 d"]) -> Float[Array, "*k b d"]:
        """All blocks; the class token is what comes out."""
        return _scan(self.blocks, lambda block, x: block(x), tokens)[..., 0, :]

    def project(self, token: Float[Array, "*k b d"]) -> Float[Array, "*k b e"]:
        """Into the joint space, un-normalised, in float32."""
        return self.projection(self.norm_out(token)).astype(jnp.float32)

    def __call__(self, pixels: Float[Array, "*k b h w 3"]) -> Float[Array, "*k b e"]:
        return self.project(self.encode(self.embed(pixels)))


class TextTower(nn.Module):
    """T(ids) = W norm(encode(token(ids) + position))_end."""

    sizes: architecture.Text
    embed_dim: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        transformer = self.sizes.transformer
        width = transformer.width
        self.token = nn.Embed(
            self.sizes.vocab_size, width, embedding_init=nn.initializers.normal(0.02), dtype=self.dtype
        )
        self.position = self.param("position", nn.initializers.normal(0.01), (self.sizes.context_length, width))
        self.blocks = Block(transformer, self.dtype)
        self.norm_out = nn.LayerNorm(epsilon=transformer.epsilon, use_fast_variance=False, dtype=self.dtype)
        self.projection = nn.Dense(self.embed_dim, use_bias=False, dtype=self.dtype)

    def embed(self, ids: Int[Array, "*c s"], offset: int = 0) -> Float[Array, "*c s d"]:
        """Token and position embeddings of ids that stand at positions offset, offset + 1, ..."""
        position = self.position[offset : offset + ids.shape[-1]]
        return self.token(ids) + position.astype(self.dtype)

    def encode(self, tokens: Float[Array, "*c s d"]) -> Float[Array, "*c s d"]:
        """All blocks over whole sequences."""
        return _scan(self.blocks, lambda block, x: block(x), tokens)

    def encode_shared_prefix(
        self, prefix: Float[Array, "k p d"], suffix: Float[Array, "c s d"]
    ) -> Float[Array, "k c s d"]:
        """encode([prefix, suffix_c])[p:] for every draw of the prefix and every class, exactly.

        Attention is causal, so the prefix does not depend on what follows it: it runs once per draw, and
        each class's suffix attends to the prefix's keys and values.
        """
        start = prefix, jnp.broadcast_to(suffix, (prefix.shape[0], *suffix.shape))
        return _scan(self.blocks, lambda block, carry: block.shared_prefix(*carry), start)[1]

    def project(self, tokens: Float[Array, "*c s d"], end: Int[Array, "*c"]) -> Float[Array, "*c e"]:
        """The end token's embedding into the joint space, un-normalised, in float32."""
        end = jnp.broadcast_to(end, tokens.shape[:-2])
        token = jnp.take_along_axis(tokens, end[..., None, None], axis=-2)[..., 0, :]
        return self.projection(self.norm_out(token)).astype(jnp.float32)

    def __call__(self, ids: Int[Array, "*c s"], end: Int[Array, "*c"]) -> Float[Array, "*c e"]:
        return self.project(self.encode(self.embed(ids)), end)


def image_tower(sizes: architecture.Architecture, dtype: jnp.dtype) -> ImageTower | ResNetTower:
    """The image tower of an architecture."""
    if isinstance(sizes.image, architecture.ResNet):
        return ResNetTower(sizes.image, sizes.embed_dim, dtype)
    return ImageTower(sizes.image, sizes.embed_dim, dtype)


class Towers(nn.Module):
    """Both towers and the log-temperature: the whole frozen model, for initialising and pre-training."""

    sizes: architecture.Architecture
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.image = image_tower(self.sizes, self.dtype)
        self.text = TextTower(self.sizes.text, self.sizes.embed_dim, self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6592), ())

    def __call__(self, pixels: Float[Array, "b h w 3"], ids: Int[Array, "c s"], end: Int[Array, "c"]):
        return self.image(pixels), self.text(ids, end), self.logit_scale
