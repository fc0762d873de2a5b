"""What makes the mean and the scale of the noise at a site (paper, Figure 3).

Every generator is a Linen module that returns a `Gaussian`. Its public fields are its options in the config; all
computation is in float32, whatever the towers use.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from pini_jax.errors import InputError, did_you_mean
from pini_jax.noise.gaussian import Gaussian


def _torch_uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for both the weight and the bias of Linear."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


class _Linear(nn.Module):
    """x W + b in float32, initialised as PyTorch's Linear."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = x.shape[-1]
        kernel = self.param("kernel", _torch_uniform, (fan_in, self.features), fan_in)
        bias = self.param("bias", _torch_uniform, (self.features,), fan_in)
        return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias


class Table(nn.Module):
    """mu and sigma are free parameters, of one draw's shape.

    Source: the paper's released code, `prompt_tokens`.

    Attributes:
        initial_scale: standard deviation of the normal that both are initialised from.
    """

    initial_scale: float = 0.02

    @nn.compact
    def __call__(self, shape: tuple[int, ...]) -> Gaussian:
        """The noise of one draw, of the given shape."""
        init = nn.initializers.normal(self.initial_scale)
        return Gaussian(self.param("mean", init, shape), self.param("scale", init, shape))


class CrossAttention(nn.Module):
    """a = softmax(q(f) k(t)^T) v(t);  mu = m(a);  sigma = |r(a)|.

    One head, without the division by sqrt(channels). q, k, v map e to e / reduction channels, m and r map back.

    Source: paper, Section "Noise Generators", and the released code, `image_features`.

    Attributes:
        reduction: by how much the attention is narrower than the features.
    """

    reduction: int = 1

    @nn.compact
    def __call__(self, features: Float[Array, "b e"], text: Float[Array, "k c e"]) -> Gaussian:
        """The noise of every image given every draw of the text: shape [k b e]."""
        width = features.shape[-1]
        if width % self.reduction:
            raise InputError(f"noise.image_features.reduction={self.reduction} does not divide {width} channels")
        narrow = width // self.reduction
        query = _Linear(narrow, name="query")(features)
        key, value = _Linear(narrow, name="key")(text), _Linear(narrow, name="value")(text)
        precision = jax.lax.Precision.HIGHEST
        weights = jax.nn.softmax(jnp.einsum("br,kcr->kbc", query, key, precision=precision))
        attended = jnp.einsum("kbc,kcr->kbr", weights, value, precision=precision)
        return Gaussian(_Linear(width, name="mean")(attended), jnp.abs(_Linear(width, name="scale")(attended)))


# Which generators a site can have.
SITES: Mapping[str, Mapping[str, type[nn.Module]]] = {
    "prompt_tokens": {"table": Table},
    "image_features": {"cross_attention": CrossAttention},
}


def options(generator: type[nn.Module]) -> dict[str, Any]:
    """The options of a generator with their defaults."""
    fields = dataclasses.fields(generator)
    return {field.name: field.default for field in fields if field.name not in ("name", "parent")}


def with_defaults(noise: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same noise with every option written out."""
    return {
        site: {"generator": settings["generator"]} | options(SITES[site][settings["generator"]]) | dict(settings)
        for site, settings in noise.items()
    }


def build(noise: Mapping[str, Mapping[str, Any]]) -> FrozenDict[str, nn.Module]:
    """Makes the generator of every site from {site: {"generator": name, option: value, ...}}.

    Raises:
        InputError: an unknown site, generator or option.
    """
    generators = {}
    for site, settings in noise.items():
        if site not in SITES:
            raise InputError(f"noise has no site {site!r}{did_you_mean(site, SITES)}")
        if not isinstance(settings, Mapping):
            raise InputError(f"noise.{site}={settings!r} must be {{'generator': name, option: value, ...}}")
        name = str(settings.get("generator"))
        if name not in SITES[site]:
            raise InputError(f"noise.{site} has no generator {name!r}{did_you_mean(name, SITES[site])}")
        generator, given = SITES[site][name], {k: v for k, v in settings.items() if k != "generator"}
        known = options(generator)
        for option, value in given.items():
            if option not in known:
                raise InputError(f"noise.{site}: {name} has no option {option!r}{did_you_mean(option, known)}")
            kind = type(known[option])
            if not isinstance(value, (kind, int)) or isinstance(value, bool) or not 0 < value < math.inf:
                raise InputError(f"noise.{site}.{option}={value!r} must be a positive {kind.__name__}")
        generators[site] = generator(**given)
    return FrozenDict(generators)
