"""Where noise is added, and which generators can make it there: from a config to modules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from flax.core import FrozenDict

from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.noise.generators import CONTROLS, SIGMAS, CrossAttention, Generator, Mlp, PromptMlp, Table
from pini_jax.noise.pixels import Conv, PatchAttention
from pini_jax.noise.structured import Discriminant, Residual

# Which generators a site can have, in the order in which noise is added.
SITES: Mapping[str, Mapping[str, type[Generator]]] = {
    "prompt_tokens": {"table": Table, "mlp": PromptMlp, "cross_attention": CrossAttention},
    "text_features": {"table": Table, "mlp": Mlp, "discriminant": Discriminant},
    "pixels": {"conv": Conv, "cross_attention": PatchAttention},
    "patch_tokens": {"mlp": Mlp, "cross_attention": CrossAttention},
    "image_features": {"table": Table, "mlp": Mlp, "cross_attention": CrossAttention, "residual": Residual},
}
IMAGE_SITES = ("pixels", "patch_tokens", "image_features")
MOST = {"shrinkage": 1.0}
CHOICES = {"control": CONTROLS, "sigma": tuple(SIGMAS)}


def options(generator: type[Generator]) -> dict[str, Any]:
    """The options of a generator with their defaults."""
    fields = dataclasses.fields(generator)
    return {field.name: field.default for field in fields if field.name not in ("name", "parent")}


def with_defaults(noise: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same noise with every option written out."""
    return {
        site: {"generator": settings["generator"]} | options(SITES[site][settings["generator"]]) | dict(settings)
        for site, settings in noise.items()
    }


def build(noise: Mapping[str, Mapping[str, Any]]) -> FrozenDict[str, Generator]:
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
            check_option(f"noise.{site}.{option}", value, known[option], CHOICES.get(option))
        generators[site] = generator(**given)
    return FrozenDict({site: one for site, one in generators.items() if one.control != "none"})


def check_option(name: str, value: Any, default: Any, choices: tuple[str, ...] | None = None) -> None:
    """Raises InputError unless a value is of its default's kind: one of the choices, a flag, or a number.

    Numbers are positive; 0 where the default is 0.
    """
    kind = type(default)
    if choices is not None:
        if value not in choices:
            raise InputError(f"{name}={value!r} must be one of {', '.join(choices)}")
    elif kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"{name}={value!r} must be True or False")
    elif not isinstance(value, (kind, int)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise InputError(f"{name}={value!r} must be a positive {kind.__name__}")
    elif value == 0 and default != 0:
        raise InputError(f"{name}=0 must be a positive {kind.__name__}")
    elif value > MOST.get(name.rpartition(".")[2], math.inf):
        raise InputError(f"{name}={value!r} must be {MOST[name.rpartition('.')[2]]} at most")
