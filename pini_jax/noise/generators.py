"""What makes the mean and the scale of the noise at a site (paper, Figure 3).

Every generator is a Linen module from `Inputs` to `Gaussian`. Its public fields are its options in the config; all
computation is in float32, whatever the towers use. Which site has which generators stands in `noise.sites`.

Shapes: as in `core.shapes`; r = channels / reduction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pini_jax.core.errors import InputError
from pini_jax.core.options import at_least, one_of, positive
from pini_jax.core.products import matmul
from pini_jax.core.shapes import Numbers
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.noise.gaussian import Gaussian

CONTROLS = ("learned", "none", "random", "mean_only", "scale_only")
Moment = Callable[[], Array]
SIGMAS: Mapping[str, Callable[[Array], Array]] = {
    "abs": jnp.abs,
    "softplus": jax.nn.softplus,
    "exp": jnp.exp,
    "free": lambda x: x,
}


class Inputs(NamedTuple):
    """The inputs of a generator.

    Attributes:
        x: what the noise is added to: prompt_tokens [1 1 p d], text_features [1 k c e], pixels [1 1 b h w 3],
            patch_tokens [n k b ... d], image_features [n k b e].
        shape: of the part of x that does not change from image to image or from draw to draw.
        text: text features, the keys and values of an attention.
        query: its queries, if not x: the patches of an image [1 1 b ... d].
        support: the selection, for `init`.
        weights: weights of a training step's images; None in prediction.
    """

    x: Float[Array, "n k *b e"]
    shape: tuple[int, ...]
    text: Float[Array, "k c e"]
    query: Float[Array, "n k *b d"] | None = None
    support: Support = NO_SUPPORT
    weights: Float[Numbers, "b"] | None = None


def _torch_uniform(factor: float) -> Callable[[Array, tuple[int, ...], int], Array]:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for both weight and bias of Linear, times a factor."""

    def init(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
        bound = factor * fan_in**-0.5
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    return init


class _Linear(nn.Module):
    """x W + b in float32, initialised as PyTorch's Linear, times `initial_scale`."""

    features: int
    initial_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in, init = x.shape[-1], _torch_uniform(self.initial_scale)
        kernel = self.param("kernel", init, (fan_in, self.features), fan_in)
        bias = self.param("bias", init, (self.features,), fan_in)
        return matmul(x, kernel) + bias


class Generator(nn.Module):
    """Base class: from `Inputs` to a `Gaussian`, with controls, level and sigma map.

    Attributes:
        control: `learned`; or, for honest ablations, `none` (no noise), `random` (mu = 0, sigma = initial_scale,
            or 1 where there is a level, and nothing learned), `mean_only` (sigma = 0), `scale_only` (mu = 0).
        sigma: how sigma follows from what is learned: `abs`, `softplus`, `exp`, or `free` (as it is; its sign does
            not matter).
        level: 0 for noise in absolute numbers; else mu and sigma are in units of level * rms(x), so that noise of
            sigma 1 is that fraction of the norm of what it is added to.
        initial_scale: of the mean, and of what becomes sigma, before the first step, as each generator defines it;
            `softplus` and `exp` map it, too.
    """

    reads_support: ClassVar[bool] = False  # whether it is made from the selection
    is_table: ClassVar[bool] = False  # whether parameters have the shape of what the noise is added to
    convolves: ClassVar[bool] = False  # whether its parameters are kernels of convolutions
    asks_patches: ClassVar[bool] = False  # whether it reads `query`: of noise on pixels, the image's patches
    norm_axes: ClassVar[tuple[int, ...]] = (-1,)  # of what has one norm

    control: str = one_of(CONTROLS, "learned")
    sigma: str = one_of(SIGMAS, "abs")
    level: float = at_least(0, 0.0)
    initial_scale: float = positive(1.0)

    @property
    def is_still(self) -> bool:
        """Whether the control makes the mean 0, so that predictions without draws are as without this noise."""
        return self.control in ("none", "random", "scale_only")

    @nn.compact
    def __call__(self, inputs: Inputs) -> Gaussian:
        """The noise, as the control restricts it."""
        start, factor, zero = self.start(inputs), self.factor(inputs), jnp.zeros((), jnp.float32)
        if self.control == "random":
            mu, sigma = zero, jnp.float32(1.0 if self.level else self.initial_scale)
        else:
            mean, scale = self.moments(inputs)
            mu = zero if self.control == "scale_only" else mean()
            sigma = zero if self.control == "mean_only" else SIGMAS[self.sigma](scale())
        unit, shape = self._unit(inputs.x), jnp.broadcast_shapes(inputs.x.shape, mu.shape)
        shape = shape if factor is not None else jnp.broadcast_shapes(shape, sigma.shape)
        directions = shape if factor is None else (*shape[:-1], len(factor))
        return Gaussian(
            mean=jnp.broadcast_to(unit * (start + mu), shape),
            scale=jnp.broadcast_to(unit * sigma, directions),
            factor=factor,
            start=jnp.broadcast_to(unit * start, shape),
            unit=unit,
        )

    def start(self, inputs: Inputs) -> Float[Array, "*x"]:
        """The mean before anything is learned, which a KL pulls towards."""
        return jnp.zeros((), jnp.float32)

    def factor(self, inputs: Inputs) -> Float[Array, "m e"] | None:
        """Directions of the noise; None for noise with a scale per coordinate."""
        return None

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """Functions that make mu, and sigma before its map, so that only what is used has parameters."""
        raise NotImplementedError

    def linear_moments(self, x: Float[Array, "n k *b r"], width: int) -> tuple[Moment, Moment]:
        """Moments that are each a linear map of x."""

        def linear(name: str) -> Moment:
            return lambda: _Linear(width, self.initial_scale, name=name)(x)

        return linear("mean"), linear("scale")

    def _unit(self, x: Float[Array, "n k *b e"]) -> Array:
        """What mu and sigma are multiples of."""
        if not self.level:
            return jnp.float32(1.0)
        power = jnp.square(jax.lax.stop_gradient(x).astype(jnp.float32)).mean(self.norm_axes, keepdims=True)
        return self.level * jnp.sqrt(power)


class Table(Generator):
    """mu and sigma are free parameters: for every prompt token, for every class, or one for all image features.

    Source: the paper's released code, `prompt_tokens`.

    Attributes:
        initial_scale: standard deviation of the normal that both are initialised from.
    """

    is_table: ClassVar[bool] = True

    sigma: str = one_of(SIGMAS, "free")
    initial_scale: float = positive(0.02)

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """The free parameters themselves."""
        init = nn.initializers.normal(self.initial_scale)
        return lambda: self.param("mean", init, inputs.shape), lambda: self.param("scale", init, inputs.shape)


class Mlp(Generator):
    """h = relu(W x + b);  mu = m(h);  sigma = |r(h)|.

    Source: paper, Section "Noise Generators".

    Attributes:
        reduction: by how much the hidden layer is narrower than x.
        initial_scale: factor of the initial weights of m and r.
    """

    reduction: int = at_least(1, 1)

    def _hidden(self, inputs: Inputs, narrow: int) -> Float[Array, "n k *b r"]:
        return _Linear(narrow, name="hidden")(inputs.x.astype(jnp.float32))

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """The moments for every vector of x."""
        narrow = reduced(inputs.x.shape[-1], self.reduction)
        return self.linear_moments(jax.nn.relu(self._hidden(inputs, narrow)), inputs.x.shape[-1])


class PromptMlp(Mlp):
    """`Mlp` for prompt tokens, where h also sees the classes' zero-shot text features: W x + b + U mean_c t_c."""

    def _hidden(self, inputs: Inputs, narrow: int) -> Float[Array, "1 1 p r"]:
        return super()._hidden(inputs, narrow) + _Linear(narrow, name="text")(inputs.text.mean(-2))


class CrossAttention(Generator):
    """a = softmax(q(f) k(t)^T) v(t);  mu = m(a);  sigma = |r(a)|.

    f is x: an image feature, every patch or every prompt token; t are text features, noised like those it meets
    (for prompt tokens: zero-shot). q, k, v map to r channels, m and r map back.

    Source: paper, Section "Noise Generators", and the released code, `image_features`: one head, not scaled.

    Attributes:
        reduction: by how much the attention is narrower than x.
        heads: attention heads.
        scaled: whether scores are divided by sqrt(channels of a head).
        initial_scale: factor of the initial weights of m and r.
    """

    reduction: int = at_least(1, 1)
    heads: int = at_least(1, 1)
    scaled: bool = False

    def attend(self, query: Float[Array, "n k *b d"], text: Float[Array, "_ c e"]) -> Float[Array, "n _ *b r"]:
        """The attention of every query to the text."""
        narrow = reduced(query.shape[-1], self.reduction)
        if narrow % self.heads:
            raise InputError(f"noise: {self.heads} heads do not divide {narrow} channels")
        n, k, *rest, d = query.shape
        flat = query.reshape(n, k, math.prod(rest), d).astype(jnp.float32)

        def split(x: Float[Array, "*k m r"]) -> Float[Array, "*k h m z"]:
            return jnp.moveaxis(x.reshape(*x.shape[:-1], self.heads, -1), -2, -3)

        q = split(_Linear(narrow, name="query")(flat))
        key, value = (split(_Linear(narrow, name=name)(text.astype(jnp.float32))) for name in ("key", "value"))
        scores = matmul(q, jnp.swapaxes(key, -1, -2))
        if self.scaled:
            scores = scores / jnp.sqrt(narrow // self.heads)
        attended = jnp.moveaxis(matmul(jax.nn.softmax(scores), value), -3, -2)
        return attended.reshape(*attended.shape[:2], *rest, narrow)

    def moments(self, inputs: Inputs) -> tuple[Moment, Moment]:
        """The moments for every vector of x, given every draw of the text."""
        return self.linear_moments(self.attend(inputs.x, inputs.text), inputs.x.shape[-1])


def reduced(width: int, reduction: int) -> int:
    """width / reduction."""
    if width % reduction:
        raise InputError(f"noise: reduction={reduction} does not divide {width} channels")
    return width // reduction
