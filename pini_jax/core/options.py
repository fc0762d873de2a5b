"""Options: fields of a dataclass that say what their values may be, beside their defaults.

@dataclasses.dataclass(frozen=True)
class Optim:
    lr: float = positive(1e-3)
    name: str = one_of(("sgd", "adam"), "sgd")
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pini_jax.core.errors import did_you_mean

RULE = "rule"  # of a field's metadata


class Rule(NamedTuple):
    """What a value must be, in words, and whether one is."""

    must_be: str
    holds: Callable[[Any], bool]


def option(default: Any, must_be: str, holds: Callable[[Any], bool]) -> Any:
    """A field with a default and a rule of its own."""
    return dataclasses.field(default=default, metadata={RULE: Rule(must_be, holds)})


def positive(default: float) -> Any:
    """A finite number above 0."""
    return option(default, "positive", lambda x: 0 < x < math.inf)


def at_least(least: int, default: float, note: str = "") -> Any:
    """A finite number, `least` or more; `note` says what the least one means."""
    words = f"{least} ({note}) or more" if note else "0 or more" if least == 0 else f"at least {least}"
    return option(default, words, lambda x: least <= x < math.inf)


def fraction(default: float, most: float = 1.0) -> Any:
    """A number from 0 to `most`."""
    return option(default, f"from 0 to {most:g}", lambda x: 0 <= x <= most)


def below_one(default: float) -> Any:
    """A number from 0 to 1, without 1."""
    return option(default, "in [0, 1)", lambda x: 0 <= x < 1)


def one_of(names: Iterable[str], default: str) -> Any:
    """One of some names."""
    *some, last = names = tuple(names)
    return option(default, f"{', '.join(some)} or {last}", lambda x: x in names)


def defaults(kind: type, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """{option: default} of a dataclass, but for the fields that are none."""
    return {field.name: field.default for field in dataclasses.fields(kind) if field.name not in leave_out}


def broken_rules(value: Any, prefix: str = "") -> Iterator[str]:
    """`KEY=VALUE must be ...` for every field of a dataclass that breaks its rule, and of those within it."""
    for field in dataclasses.fields(value):
        own, rule = getattr(value, field.name), field.metadata.get(RULE)
        if dataclasses.is_dataclass(own):
            yield from broken_rules(own, f"{prefix}{field.name}.")
        elif rule and not rule.holds(own):
            yield f"{prefix}{field.name}={own!r} must be {rule.must_be}"


def problems_of(
    owner: type, given: Mapping[str, Any], known: Iterable[str], title: str, prefix: str
) -> Iterator[str]:
    """What is wrong with options that are given to a dataclass by name: unknown, of another kind, against a rule.

    Args:
        owner: the dataclass; an option has the type of its default.
        given: option -> value.
        known: the names of its options.
        title: what has no such option, as a message begins.
        prefix: of the options' names in a message.
    """
    fields = {field.name: field for field in dataclasses.fields(owner) if field.name in set(known)}
    for name, value in given.items():
        if name not in fields:
            yield f"{title} has no option {name!r}{did_you_mean(name, fields)}"
            continue
        kind, rule = type(fields[name].default), fields[name].metadata.get(RULE)
        if convert(kind, value) is None:
            adjective = "a positive " if rule and rule.must_be == "positive" else ""
            yield f"{prefix}{name}={value!r} must be {adjective}{kind_in_words(kind)}"
        elif rule and not rule.holds(value):
            yield f"{prefix}{name}={value!r} must be {rule.must_be}"


def convert(kind: Any, value: Any) -> Any:
    """`value` as `kind`, or None where it is something else: whole numbers are floats too, lists are tuples."""
    origin = typing.get_origin(kind)
    if kind is float:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if kind is bool:
        return value if isinstance(value, bool) else None
    if origin is tuple:
        kinds = typing.get_args(kind)
        if kinds[1:] == (...,) and isinstance(value, (tuple, list)):
            kinds = kinds[:1] * len(value)
        fits = isinstance(value, (tuple, list)) and len(value) == len(kinds)
        items = [convert(k, v) for k, v in zip(kinds, value, strict=True)] if fits else [None]
        return None if None in items else tuple(items)
    if isinstance(value, Mapping):
        is_mapping = origin is not None and issubclass(origin, Mapping)
        return dict(value) if is_mapping else None
    return value if isinstance(value, origin or kind) and not isinstance(value, bool) else None


def kind_in_words(kind: Any) -> str:
    """The kind in words."""
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)
