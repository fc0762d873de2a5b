"""The residual image tower of CLIP's RN models (Radford et al. 2021, Section 2.4): three stem convolutions, blocks
that pool instead of striding, and attention pooling.

Batch norm is frozen: an affine map of every channel. Shapes as in `towers`; here the n tokens are the places of
the last feature map, and d its channels.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.clip import architecture

EXPANSION = 4  # channels out of a block / channels inside it


class FrozenNorm(nn.Module):
    """(x - mean) scale / sqrt(var + 1e-5) + bias, with the statistics of pre-training."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises every channel."""
        ones, zeros, shape = nn.initializers.ones, nn.initializers.zeros, (x.shape[-1],)
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean, var = self.param("mean", zeros, shape), self.param("var", ones, shape)
        factor = scale * jax.lax.rsqrt(var.astype(jnp.float32) + 1e-5)
        return ((x - mean) * factor + bias).astype(self.dtype)


class ConvNorm(nn.Module):
    """norm(conv(x)), without a bias, padded so that stride 1 keeps the size."""

    features: int
    size: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x f"]:
        """One convolution."""
        padding = [(self.size // 2, self.size // 2)] * 2
        kernel, strides = (self.size, self.size), (self.stride, self.stride)
        x = nn.Conv(self.features, kernel, strides, padding, use_bias=False, dtype=self.dtype, name="conv")(x)
        return FrozenNorm(self.dtype, name="norm")(x)


def _pool(x: Array, stride: int) -> Array:
    return nn.avg_pool(x, (stride, stride), (stride, stride)) if stride > 1 else x


class Bottleneck(nn.Module):
    """relu(shortcut(x) + conv_3(pool(relu(conv_2(relu(conv_1(x)))))))."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x f"]:
        """One block; the shortcut is a convolution where the shape changes."""
        out = self.width * EXPANSION
        y = nn.relu(ConvNorm(self.width, 1, 1, self.dtype, name="conv_1")(x))
        y = nn.relu(ConvNorm(self.width, 3, 1, self.dtype, name="conv_2")(y))
        y = ConvNorm(out, 1, 1, self.dtype, name="conv_3")(_pool(y, self.stride))
        if self.stride > 1 or x.shape[-1] != out:
            x = ConvNorm(out, 1, 1, self.dtype, name="shortcut")(_pool(x, self.stride))
        return nn.relu(x + y)


class AttentionPool(nn.Module):
    """One query, the mean of all places, attends to itself and to every place."""

    heads: int
    embed_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        """Pools and projects."""
        width = tokens.shape[-1]
        tokens = jnp.concatenate([tokens.mean(-2, keepdims=True), tokens], axis=-2)
        position = self.param("position", nn.initializers.normal(width**-0.5), tokens.shape[-2:])
        tokens = tokens + position.astype(self.dtype)
        heads = (self.heads, width // self.heads)

        def project(name: str, x: Array) -> Array:
            return nn.Dense(width, dtype=self.dtype, name=name)(x).reshape(*x.shape[:-1], *heads)

        query, key, value = project("query", tokens[:, 0]), project("key", tokens), project("value", tokens)
        scores = jnp.einsum("bhz,bnhz->bhn", query * heads[1] ** -0.5, key)
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(self.dtype)
        attended = jnp.einsum("bhn,bnhz->bhz", weights, value).reshape(-1, width)
        return nn.Dense(self.embed_dim, dtype=self.dtype, name="out")(attended)


class ResNetTower(nn.Module):
    """V(x) = pool(blocks(stem(x))), in the stages of every image tower."""

    sizes: architecture.ResNet
    embed_dim: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """The modules, named as in `weights`."""
        width = self.sizes.width
        self.stem = [
            ConvNorm(width // 2, 3, 2, self.dtype),
            ConvNorm(width // 2, 3, 1, self.dtype),
            ConvNorm(width, 3, 1, self.dtype),
        ]
        self.blocks = [
            Bottleneck(width << stage, 2 if stage and not block else 1, self.dtype)
            for stage, blocks in enumerate(self.sizes.layers)
            for block in range(blocks)
        ]
        self.pool = AttentionPool(self.sizes.heads, self.embed_dim, self.dtype)

    def embed(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b y x d"]:
        """The stem: a quarter of the resolution."""
        x = pixels.astype(self.dtype)
        for layer in self.stem:
            x = nn.relu(layer(x))
        return _pool(x, 2)

    def encode(self, x: Float[Array, "b y x w"]) -> Float[Array, "b n d"]:
        """All blocks; the places of the last feature map as tokens."""
        for block in self.blocks:
            x = block(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def project(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        """Into the joint space, un-normalised, in float32."""
        return self.pool(tokens).astype(jnp.float32)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        """All three stages."""
        return self.project(self.encode(self.embed(pixels)))
