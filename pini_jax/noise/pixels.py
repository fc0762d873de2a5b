"""What makes the noise of pixels: every patch its square, or a convolutional network."""

from __future__ import annotations

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.core.errors import InputError
from pini_jax.core.options import positive
from pini_jax.core.shapes import Numbers
from pini_jax.noise.generators import CrossAttention, Generator, Inputs, Moment

IMAGE_AXES = (-3, -2, -1)


class PatchAttention(CrossAttention):
    """`CrossAttention` for pixels: every patch is a query, and m and r make its square of pixels.

    Source: paper, Section "Noise Generators".
    """

    norm_axes: ClassVar[tuple[int, ...]] = IMAGE_AXES
    asks_patches: ClassVar[bool] = True

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """The moments for every pixel; pixels that no patch covers get none."""
        if inputs.query is None:
            raise ValueError("the patches ask")
        n, k, b, *places, d = inputs.query.shape
        attended = self.attend(inputs.query.reshape(n, k, b, math.prod(places), d), inputs.text)
        height, width, channels = inputs.x.shape[-3:]
        grid = math.isqrt(attended.shape[-2])
        square = width // grid

        def pixels(squares: Float[Array, "n k b m s"]) -> Float[Array, "n k b h w 3"]:
            made = squares.reshape(*squares.shape[:3], grid, grid, square, square, channels)
            made = jnp.swapaxes(made, -4, -3).reshape(*made.shape[:3], grid * square, grid * square, channels)
            rest = [(0, height - grid * square), (0, width - grid * square), (0, 0)]
            return jnp.pad(made, [(0, 0)] * 3 + rest)

        mean, scale = self.linear_moments(attended, square * square * channels)
        return lambda: pixels(mean()), lambda: pixels(scale())


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + 1e-5) scale + bias, with the batch's statistics in training and running ones
    otherwise.

    As PyTorch's: running values take 0.1 of the batch's mean and of its unbiased variance. Padding does not count.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], weights: Float[Numbers, "b"] | None) -> Array:
        """Normalises every channel."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        mean, var = running_mean.value, running_var.value
        if weights is not None:
            w = weights[:, None, None, None]
            count = weights.sum() * x.shape[1] * x.shape[2]
            mean = (w * x).sum((0, 1, 2)) / count
            var = (w * jnp.square(x - mean)).sum((0, 1, 2)) / count
            if not self.is_initializing():
                running_mean.value = 0.9 * running_mean.value + 0.1 * mean
                running_var.value = 0.9 * running_var.value + 0.1 * var * count / (count - 1)
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias


class _ConvNorm(nn.Module):
    """norm(conv(x)), which keeps the size of the image."""

    features: int
    size: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"], weights: Float[Numbers, "b"] | None) -> Array:
        return BatchNorm(name="norm")(_conv(self.features, self.size, "conv")(x), weights)


def _conv(features: int, size: int, name: str) -> nn.Conv:
    padding = [(size // 2, size // 2)] * 2
    # PyTorch's default: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nn.Conv(features, (size, size), padding=padding, use_bias=False, kernel_init=init, name=name)


class Conv(Generator):
    """y = blocks(relu(norm(conv(x))));  mu, sigma = amplitude sqrt(h w) head(y) / |head(y)|, sigma made positive.

    Residual blocks of 64, 64, 128 and 64 channels at full resolution, two heads without bias; norms are over all
    pixels of an image's channel.

    Source: the paper's released code, its pixel variant.

    Attributes:
        amplitude: root mean square of mu and of sigma over the pixels of a channel.
        initial_scale: of the control `random` alone.
    """

    norm_axes: ClassVar[tuple[int, ...]] = IMAGE_AXES
    convolves: ClassVar[bool] = True

    amplitude: float = positive(0.1)

    def __post_init__(self) -> None:
        """Refuses what would have no effect.

        Raises:
            InputError: an initial scale is set where the amplitude says how large the noise is.
        """
        super().__post_init__()
        if self.control != "random" and self.initial_scale != type(self).initial_scale:
            said = f"noise: conv: initial_scale={self.initial_scale!r} is of control='random' alone"
            raise InputError(f"{said}: set amplitude, which says how large the noise of pixels is")

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """The moments for every pixel."""
        y, lead = self._features(inputs.x[0, 0], inputs.weights), inputs.x.shape[:2]

        def head(name: str) -> Float[Array, "1 1 b h w 3"]:
            made = _conv(3, 3, name)(y)
            norm = jnp.sqrt(jnp.square(made).sum((1, 2), keepdims=True))
            scaled = made / norm * math.sqrt(made.shape[1] * made.shape[2]) * self.amplitude
            return jnp.broadcast_to(scaled, (*lead, *scaled.shape))

        return lambda: head("mean"), lambda: head("scale")

    def _features(self, pixels: Float[Array, "b h w 3"], weights: Float[Numbers, "b"] | None) -> Array:
        """[b h w 64]."""
        x = jax.nn.relu(_ConvNorm(64, name="stem")(pixels, weights))
        for i, width in enumerate((64, 64, 128, 64)):
            y = jax.nn.relu(_ConvNorm(width, name=f"block_{i}_1")(x, weights))
            y = _ConvNorm(width, name=f"block_{i}_2")(y, weights)
            if x.shape[-1] != width:
                x = _ConvNorm(width, 1, name=f"block_{i}_shortcut")(x, weights)
            x = jax.nn.relu(x + y)
        return x
