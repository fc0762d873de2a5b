"""Methods by the names that a config has for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from pini_jax.clip.towers import TextTower
from pini_jax.core import options
from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.methods.clip_adapter import ClipAdapter
from pini_jax.methods.clip_lora import ClipLora
from pini_jax.methods.clip_svd import ClipSvd
from pini_jax.methods.coop import CoOp
from pini_jax.methods.empirical_bayes import EmpiricalBayes
from pini_jax.methods.gda import Gda
from pini_jax.methods.linear_probe import Clap, LinearProbe, ZeroShotProbe
from pini_jax.methods.lp_plus_plus import LpPlusPlus
from pini_jax.methods.method import Method
from pini_jax.methods.objective import Objective
from pini_jax.methods.pini import Injector
from pini_jax.methods.proker import ProKeR
from pini_jax.methods.prolip import LinearAdapter, ProLip
from pini_jax.methods.task_res import TaskRes
from pini_jax.methods.tip_adapter import TipAdapter, TipAdapterF
from pini_jax.methods.two_stage import TwoStage
from pini_jax.methods.zero_shot import ZeroShot
from pini_jax.noise import sites


class Towers(NamedTuple):
    """The frozen modules that a method runs; None where features are given."""

    text_tower: TextTower | None = None
    image_tower: nn.Module | None = None


NO_TOWERS = Towers()

METHODS: dict[str, type[Method]] = {
    "pini": Injector,
    "zero_shot": ZeroShot,
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
    "proker": ProKeR,
    "prolip": ProLip,
    "linear_adapter": LinearAdapter,
    "2sfs": TwoStage,
    "clip_svd": ClipSvd,
    "empirical_bayes": EmpiricalBayes,
}
# What every method has, and the noise, which has a place of its own in the config.
NOT_OPTIONS = tuple(field.name for field in dataclasses.fields(Injector))


def method_options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults, which are those of its paper.

    Raises:
        InputError: there is no such method.
    """
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}{did_you_mean(name, METHODS)}")
    return options.defaults(METHODS[name], leave_out=NOT_OPTIONS)


def options_with_defaults(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options with every default written out.

    Raises:
        InputError: an unknown method or option, or a value that cannot be.
    """
    known = method_options(name)
    for problem in options.problems_of(METHODS[name], given, known, f"method {name}", "options."):
        raise InputError(problem)
    return known | dict(given)


def build_method(
    name: str,
    given: Mapping[str, Any],
    noise: Mapping[str, Any],
    loss_settings: Objective,
    towers: Towers = NO_TOWERS,
) -> Method:
    """Builds the method of this name over these towers; `noise` is for methods that add noise at sites.

    Raises:
        InputError: an unknown method, site, generator or option.
    """
    own: dict[str, Any] = options_with_defaults(name, given)
    if makes_noise(name):
        own["generators"] = sites.build_noise(noise)
    return METHODS[name](**towers._asdict(), **own, loss_settings=loss_settings)


def makes_noise(name: str) -> bool:
    """Whether the method of this name is configured by noise at sites."""
    return name in METHODS and issubclass(METHODS[name], Injector)
