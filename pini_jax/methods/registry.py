"""Methods by the names that a config has for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.methods.clip_adapter import ClipAdapter
from pini_jax.methods.clip_lora import ClipLora
from pini_jax.methods.coop import CoOp
from pini_jax.methods.gda import Gda
from pini_jax.methods.linear_probe import Clap, LinearProbe, ZeroShotProbe
from pini_jax.methods.lp_plus_plus import LpPlusPlus
from pini_jax.methods.method import Method
from pini_jax.methods.objective import Objective
from pini_jax.methods.pini import Injector
from pini_jax.methods.task_res import TaskRes
from pini_jax.methods.tip_adapter import TipAdapter, TipAdapterF
from pini_jax.noise import sites


class Towers(NamedTuple):
    """The frozen modules that a method runs; None where features are given."""

    text_tower: Any = None
    image_tower: Any = None


NO_TOWERS = Towers()

METHODS: Mapping[str, type[Method]] = {
    "pini": Injector,
    "zero_shot": Method,
    "linear_probe": LinearProbe,
    "zero_shot_probe": ZeroShotProbe,
    "tip_adapter": TipAdapter,
    "tip_adapter_f": TipAdapterF,
    "clip_adapter": ClipAdapter,
    "task_res": TaskRes,
    "coop": CoOp,
    "lp++": LpPlusPlus,
    "clap": Clap,
    "gda": Gda,
    "clip_lora": ClipLora,
}
NOT_OPTIONS = ("text_tower", "image_tower", "loss_settings", "generators")


def options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults, which are those of its paper.

    Raises:
        InputError: there is no such method.
    """
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}{did_you_mean(name, METHODS)}")
    fields = dataclasses.fields(METHODS[name])
    return {field.name: field.default for field in fields if field.name not in NOT_OPTIONS}


def with_defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options with every default written out.

    Raises:
        InputError: an unknown method or option, or a value that cannot be.
    """
    known = options(name)
    for option, value in given.items():
        if option not in known:
            raise InputError(f"method {name} has no option {option!r}{did_you_mean(option, known)}")
        sites.check_option(f"options.{option}", value, known[option])
    return known | dict(given)


def build(
    name: str,
    options: Mapping[str, Any],
    noise: Mapping[str, Mapping[str, Any]],
    loss_settings: Objective,
    towers: Towers = NO_TOWERS,
) -> Method:
    """The method of this name over these towers; `noise` is that of `pini`.

    Raises:
        InputError: an unknown method, site, generator or option.
    """
    own: dict[str, Any] = with_defaults(name, options)
    if name == "pini":
        own["generators"] = sites.build(noise)
    return METHODS[name](**towers._asdict(), **own, loss_settings=loss_settings)
