"""Class names to token ids, split where the classes part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pini_jax.clip.tokenizer import Tokenizer
from pini_jax.errors import InputError


class Prompts(NamedTuple):
    """Prompts that share everything before the class name; a pytree of arrays.

    Attributes:
        prefix: ids of the start token and of the p tokens that all classes share.
        suffix: ids from the class name to the end token, padded with the end token.
        end: index of the end token within each suffix.
    """

    prefix: Int[np.ndarray, "p+1"]
    suffix: Int[np.ndarray, "c s"]
    end: Int[np.ndarray, "c"]


def build(tokenizer: Tokenizer, template: str, class_names: Sequence[str], context_length: int) -> Prompts:
    """Tokenises `template` with every class name in the place of its `{}`; `_` in a name becomes a space.

    Raises:
        InputError: the template has no single `{}`, or a prompt is longer than the context.
    """
    if template.count("{}") != 1:
        raise InputError(f"template {template!r} must hold {{}} exactly once, where the class name goes")
    rows = [tokenizer.encode(template.replace("{}", name.replace("_", " "))) for name in class_names]
    for name, row in zip(class_names, rows, strict=True):
        if len(row) > context_length:
            raise InputError(
                f"class name {name!r} makes a prompt of {len(row)} tokens; this CLIP reads {context_length}"
            )
    shared = _shared(tokenizer.encode(template.split("{}")[0])[:-1], rows)
    suffixes = [row[shared:] for row in rows]
    longest = max(map(len, suffixes))
    return Prompts(
        prefix=np.array(rows[0][:shared], np.int32),
        suffix=np.array([s + [tokenizer.end_id] * (longest - len(s)) for s in suffixes], np.int32),
        end=np.array([len(s) - 1 for s in suffixes], np.int32),
    )


def _shared(before: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    """How many of the tokens before the name start every row (a name glued to a word may merge with it)."""
    shared = len(before)
    while any(row[:shared] != before[:shared] for row in rows):
        shared -= 1
    return shared
