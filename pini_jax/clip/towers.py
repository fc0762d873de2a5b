"""The two towers of CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

Each tower comes in stages, embed -> encode -> project, so that noise is a `+` between two calls:

    tokens = stage(tower, "embed", theta, pixels)
    tokens = tokens + noise
    features = stage(tower, "project", theta, stage(tower, "encode", theta, tokens))

Towers are pure functions of (parameters, inputs): no key, no training mode. The blocks of a tower share one
set of stacked parameters with a leading `layers` axis and run in one scan.

Shapes: as in `core.shapes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pini_jax.clip import architecture
from pini_jax.clip.attention import attend
from pini_jax.clip.resnet import ResNetTower
from pini_jax.core.shapes import Parameters

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def stage(tower: nn.Module, name: str, params: Parameters, *inputs: Any) -> Any:
    """Runs one stage of a tower: stage(params, inputs), with nothing else in between."""
    return tower.apply({"params": params}, *inputs, method=name)


def _layer_norm(sizes: architecture.Transformer, dtype: jnp.dtype) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=sizes.epsilon, use_fast_variance=False, dtype=dtype)


class Block(nn.Module):
    """x <- x + attention(norm(x));  x <- x + mlp(norm(x))."""

    sizes: architecture.Transformer
    dtype: jnp.dtype

    def setup(self) -> None:
        width, heads = self.sizes.width, self.sizes.heads
        self.norm_1 = _layer_norm(self.sizes, self.dtype)
        self.norm_2 = _layer_norm(self.sizes, self.dtype)
        self.qkv = nn.DenseGeneral((3, heads, width // heads), dtype=self.dtype)
        self.out = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype)
        self.mlp_in = nn.Dense(self.sizes.mlp_width, dtype=self.dtype)
        self.mlp_out = nn.Dense(width, dtype=self.dtype)

    def _heads(self, x: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values [..., tokens, heads, channels]."""
        query, key, value = jnp.moveaxis(self.qkv(self.norm_1(x)), -3, 0)
        return query, key, value

    def _finish(self, x: Array, attended: Array) -> Array:
        x = x + self.out(attended)
        return x + self.mlp_out(ACTIVATIONS[self.sizes.activation](self.mlp_in(self.norm_2(x))))

    def __call__(self, x: Array) -> Array:
        return self._finish(x, attend(*self._heads(x), causal=self.sizes.causal))

    def shared_prefix(self, prefix: Array, suffix: Array, mask: Array) -> tuple[Array, Array]:
        """The block over the prefix [k q d] and rows of suffixes [k r s d], which see it and, by mask, each other.

        The prefix runs once per draw: nothing in it depends on what follows.
        """
        prefix_query, prefix_key, prefix_value = self._heads(prefix)
        query, key, value = self._heads(suffix)

        def join(shared: Array, own: Array) -> Array:
            shared = jnp.broadcast_to(shared[:, None], (*own.shape[:2], *shared.shape[1:]))
            return jnp.concatenate([shared, own], axis=-3)

        mask = jnp.pad(mask, ((0, 0), (0, 0), (prefix.shape[-2], 0)), constant_values=True)
        attended = attend(query, join(prefix_key, key), join(prefix_value, value), mask)
        prefix = self._finish(prefix, attend(prefix_query, prefix_key, prefix_value, causal=True))
        return prefix, self._finish(suffix, attended)


def _scan(block: Block, body: Callable[[Block, Any], Any], carry: Any, remat: bool) -> Any:
    """carry <- body(block of layer i, carry) for every layer in order.

    Args:
        remat: whether only the carries are stored for the backward pass, and the rest is recomputed.
    """

    def layer(block: Block, carry: Any, _: None) -> tuple[Any, None]:
        return body(block, carry), None

    scan = nn.scan(
        nn.remat(layer, prevent_cse=False) if remat else layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=block.sizes.layers,
        check_constancy_invariants=False,  # nothing is broadcast, and to check it every block is traced twice
    )
    return scan(block, carry, None)[0]


class PoolingHead(nn.Module):
    """y = attention(probe, tokens); y + mlp(norm(y)): SigLIP's pooling of normalised tokens, with a learned query.

    Source: Zhai et al. 2022 (https://arxiv.org/abs/2106.04560), "multihead attention pooling".
    """

    sizes: architecture.Transformer
    dtype: jnp.dtype

    def setup(self) -> None:
        width, heads = self.sizes.width, self.sizes.heads
        self.probe = self.param("probe", nn.initializers.normal(width**-0.5), (width,))
        self.qkv = nn.DenseGeneral((3, heads, width // heads), dtype=self.dtype)
        self.out = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype)
        self.norm = _layer_norm(self.sizes, self.dtype)
        self.mlp_in = nn.Dense(self.sizes.mlp_width, dtype=self.dtype)
        self.mlp_out = nn.Dense(width, dtype=self.dtype)

    def __call__(self, tokens: Float[Array, "*b n d"]) -> Float[Array, "*b d"]:
        # The probe joins the tokens for one projection: it is the query, and no key or value.
        probe = jnp.broadcast_to(self.probe.astype(self.dtype), (*tokens.shape[:-2], 1, tokens.shape[-1]))
        projected = self.qkv(jnp.concatenate([probe, tokens], axis=-2))
        query, key, value = jnp.moveaxis(projected, -3, 0)
        x = self.out(attend(query[..., :1, :, :], key[..., 1:, :, :], value[..., 1:, :, :]))[..., 0, :]
        return x + self.mlp_out(ACTIVATIONS[self.sizes.activation](self.mlp_in(self.norm(x))))


class ImageTower(nn.Module):
    """V(x) = W norm(encode(norm([class, patches(x)] + position)))_class; variants in `architecture.Image`."""

    sizes: architecture.Image
    embed_dim: int
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        sizes, transformer = self.sizes, self.sizes.transformer
        width = transformer.width
        init = nn.initializers.normal(width**-0.5)
        self.patch_embedding = nn.Dense(width, use_bias=sizes.patch_bias, dtype=self.dtype)
        if sizes.class_token:
            self.class_embedding = self.param("class_embedding", init, (width,))
        self.position = self.param("position", init, (sizes.class_token + sizes.num_patches, width))
        if sizes.norm_in:
            self.norm_in = _layer_norm(transformer, self.dtype)
        self.blocks = Block(transformer, self.dtype)
        # What follows the blocks is little work: in float32 whatever the dtype.
        self.norm_out = _layer_norm(transformer, jnp.float32)
        if sizes.pool == "attention":
            self.head = PoolingHead(transformer, jnp.float32)
        if sizes.projection:
            self.projection = nn.Dense(self.embed_dim, use_bias=False, dtype=jnp.float32)

    def embed(self, pixels: Float[Array, "*b h w 3"]) -> Float[Array, "*b n d"]:
        """Patches as tokens, after the class token, with positions, through the first norm."""
        p, grid = self.sizes.patch_size, self.sizes.grid
        *lead, _, _, channels = pixels.shape
        pixels = pixels[..., : grid * p, : grid * p, :]
        patches = pixels.astype(self.dtype).reshape(*lead, grid, p, grid, p, channels)
        patches = jnp.swapaxes(patches, -4, -3).reshape(*lead, grid**2, p * p * channels)
        tokens = self.patch_embedding(patches)
        if self.sizes.class_token:
            first = jnp.broadcast_to(self.class_embedding.astype(self.dtype), (*lead, 1, tokens.shape[-1]))
            tokens = jnp.concatenate([first, tokens], axis=-2)
        tokens = tokens + self.position.astype(self.dtype)
        return self.norm_in(tokens) if self.sizes.norm_in else tokens

    def encode(self, tokens: Float[Array, "*b n d"]) -> Float[Array, "*b n d"]:
        """All blocks."""
        return _scan(self.blocks, lambda block, x: block(x), tokens, self.remat)

    def _pool(self, tokens: Float[Array, "*b n d"]) -> Float[Array, "*b d"]:
        patches = tokens[..., int(self.sizes.class_token) :, :]
        match self.sizes.pool:
            case "class":
                return self.norm_out(tokens[..., 0, :])
            case "mean":
                return self.norm_out(patches.mean(-2))
            case "mean_of_norms":
                return self.norm_out(patches).mean(-2)
            case "attention":
                return self.head(self.norm_out(patches))
        raise ValueError(self.sizes.pool)

    def project(self, tokens: Float[Array, "*b n d"]) -> Float[Array, "*b e"]:
        """One token into the joint space, un-normalised, in float32."""
        token = self._pool(tokens)
        return self.projection(token) if self.sizes.projection else token

    def __call__(self, pixels: Float[Array, "*b h w 3"]) -> Float[Array, "*b e"]:
        return self.project(self.encode(self.embed(pixels)))


class TextTower(nn.Module):
    """T(ids) = W norm(encode(token(ids) + position))_end.

    Attributes:
        remat: whether layers are recomputed in the backward pass instead of stored: less memory, more work.
    """

    sizes: architecture.TextSizes
    embed_dim: int
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        transformer = self.sizes.transformer
        width = transformer.width
        self.token = nn.Embed(
            self.sizes.vocab_size, width, embedding_init=nn.initializers.normal(0.02), dtype=self.dtype
        )
        self.position = self.param("position", nn.initializers.normal(0.01), (self.sizes.context_length, width))
        self.blocks = Block(transformer, self.dtype)
        # As in the image tower.
        self.norm_out = _layer_norm(transformer, jnp.float32)
        self.projection = nn.Dense(self.embed_dim, use_bias=self.sizes.projection_bias, dtype=jnp.float32)

    def embed(self, ids: Int[Array, "*c s"], places: Int[Array, "*c s"] | None = None) -> Float[Array, "*c s d"]:
        """Embeddings of tokens and of the places where they stand: 0, 1, ... unless given."""
        position = self.position[: ids.shape[-1]] if places is None else self.position[places]
        return self.token(ids) + position.astype(self.dtype)

    def encode(self, tokens: Float[Array, "*c s d"]) -> Float[Array, "*c s d"]:
        """All blocks over whole sequences."""
        return _scan(self.blocks, lambda block, x: block(x), tokens, self.remat)

    def encode_suffixes(
        self, prefix: Float[Array, "k *r q d"], suffix: Float[Array, "r s d"], owner: Int[Array, "r s"]
    ) -> Float[Array, "k r s d"]:
        """encode([prefix, suffix_c])[q:] for every draw of the prefix and every class, exactly.

        Where attention is causal the prefix does not depend on what follows it: it runs once per draw. Suffixes
        see its keys and values, and those before them of their own class; a row may hold several. Otherwise, or
        where classes have prefixes of their own [k r q d], a row is one class and runs whole.

        Args:
            owner: the class that a token belongs to.
        """
        k, (r, s, d) = prefix.shape[0], suffix.shape
        suffix = jnp.broadcast_to(suffix, (k, r, s, d))
        if self.sizes.transformer.causal and prefix.ndim == 3:
            mask = (owner[:, :, None] == owner[:, None, :]) & jnp.tril(jnp.ones((s, s), bool))
            return _scan(
                self.blocks,
                lambda block, carry: block.shared_prefix(carry[0], carry[1], mask),
                (prefix, suffix),
                self.remat,
            )[1]
        before = prefix if prefix.ndim == 4 else prefix[:, None]
        before = jnp.broadcast_to(before, (k, r, *prefix.shape[-2:]))
        return self.encode(jnp.concatenate([before, suffix], axis=-2))[..., -s:, :]

    def project(self, token: Float[Array, "*c d"]) -> Float[Array, "*c e"]:
        """A class's end token into the joint space, un-normalised, in float32."""
        return self.projection(self.norm_out(token))

    def __call__(self, ids: Int[Array, "*c s"], end: Int[Array, "*c"]) -> Float[Array, "*c e"]:
        tokens = self.encode(self.embed(ids))
        return self.project(jnp.take_along_axis(tokens, end[..., None, None], axis=-2)[..., 0, :])


def image_tower(sizes: architecture.Architecture, dtype: jnp.dtype) -> ImageTower | ResNetTower:
    """The image tower of an architecture."""
    if isinstance(sizes.image, architecture.ResNet):
        return ResNetTower(sizes.image, sizes.embed_dim, dtype)
    return ImageTower(sizes.image, sizes.embed_dim, dtype)


class ClipModel(nn.Module):
    """Both towers and the log-temperature: the whole frozen model, for initialising and pre-training."""

    sizes: architecture.Architecture
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.image = image_tower(self.sizes, self.dtype)
        self.text = TextTower(self.sizes.text, self.sizes.embed_dim, self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6592), ())
        if self.sizes.logit_bias:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def __call__(
        self, pixels: Float[Array, "b h w 3"], ids: Int[Array, "c s"], end: Int[Array, "c"]
    ) -> tuple[Array, Array, Array]:
        return self.image(pixels), self.text(ids, end), self.logit_scale
