"""Generators, sites, methods and datasets of one's own, by the names that a config then has for them.

A plug-in is a module that calls these functions, named in the config's `plugins`; nothing in the package changes:

    from pini_jax import register

    @register.generator("image_features", "student_t")
    class StudentT(Generator): ...

What is registered can have options, buffers and a search space as the package's own has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

from flax.core import FrozenDict

from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.data.datasets import sources
from pini_jax.data.datasets.findings import Findings
from pini_jax.data.datasets.sources import Source
from pini_jax.methods import registry
from pini_jax.methods.method import Method
from pini_jax.noise.generators import Generator
from pini_jax.noise.sites import SITES, STAGES, Site

G = TypeVar("G", bound=type[Generator])
M = TypeVar("M", bound=type[Method])
Find = Callable[[str, str, int], Findings]


def generator(at: str, name: str) -> Callable[[G], G]:
    """Decorates a generator: `noise.SITE.generator=NAME` makes it; its public fields are its options.

    Args:
        at: the site's name.

    Raises:
        InputError: there is no such site, or it has a generator of this name.
    """

    def decorate(made: G) -> G:
        if at not in SITES:
            raise InputError(f"there is no site {at!r} for the generator {name!r}: register the site first")
        known = dict(SITES[at].generators)
        _add(known, name, made, f"generator of {at}")
        SITES[at] = dataclasses.replace(SITES[at], generators=FrozenDict(known))
        return made

    return decorate


def site(made: Site) -> Site:
    """Registers a site for noise: `noise.NAME` configures it.

    Raises:
        InputError: there is a site of this name, or no such stage for it to stand at.
    """
    if made.at not in STAGES:
        raise InputError(f"site {made.name!r}: there is no stage {made.at!r}{did_you_mean(made.at, STAGES)}")
    _add(SITES, made.name, made, "site")
    return made


def method(name: str) -> Callable[[M], M]:
    """Decorates a method: `method=NAME` trains it; its fields are its `options`.

    Raises:
        InputError: there is a method of this name.
    """

    def decorate(made: M) -> M:
        _add(registry.METHODS, name, made, "method")
        return made

    return decorate


def dataset(pattern: str, has_images: bool = True) -> Callable[[Find], Find]:
    """Decorates a reader: `dataset=NAME` calls find(group, data_dir, seed) where the pattern fits the name.

    Args:
        pattern: regular expression whose one group is what the reader gets, such as `shapes:(.+)`.

    Raises:
        InputError: there is a dataset of this pattern.
    """

    def decorate(find: Find) -> Find:
        _add(sources.SOURCES, pattern, Source(pattern, find, has_images=has_images), "dataset")
        return find

    return decorate


def _add(known: MutableMapping[str, Any], name: str, made: Any, kind: str) -> None:
    if name in known:
        raise InputError(f"there is a {kind} {name!r} already: choose another name")
    known[name] = made
