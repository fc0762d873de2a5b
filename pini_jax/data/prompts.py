"""Class names to token ids, split where the classes part."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pini_jax.clip.architecture import Text
from pini_jax.clip.tokenizer import Tokenizer
from pini_jax.errors import InputError

LOG = logging.getLogger(__name__)
_WHOLE = {
    False: "bidirectional text: all %d positions of every class are encoded (no shared prefix)",
    True: "text is read from its last position: all %d positions of every class are encoded",
}


class Prompts(NamedTuple):
    """Prompts that share everything before the class name; a pytree of arrays.

    The prompt of class c is [start, prefix, suffix_c], at positions 0, 1, ...

    Attributes:
        start: ids of what stands before every text: CLIP's start token, or nothing.
        prefix: ids of the p tokens that all classes share; these get the noise.
        suffix: ids from the class name on, the end token and what fills up included.
        end: index within each suffix of the token that becomes the feature.
    """

    start: Int[np.ndarray, "a"]
    prefix: Int[np.ndarray, "p"]
    suffix: Int[np.ndarray, "c s"]
    end: Int[np.ndarray, "c"]


def build(tokenizer: Tokenizer, template: str, class_names: Sequence[str], text: Text) -> Prompts:
    """Tokenises `template` with every class name in the place of its `{}`; `_` in a name becomes a space.

    Suffixes are as long as the longest; up to the context length if the tower sees what comes after the end token.

    Args:
        tokenizer: of the checkpoint.
        template: text with one `{}`.
        class_names: c names.
        text: sizes of the text tower.

    Raises:
        InputError: the template has no single `{}`, there is no class, a name is no text, or a prompt is longer
            than the context.
    """
    if template.count("{}") != 1:
        raise InputError(f"template {template!r} must hold {{}} exactly once, where the class name goes")
    if not class_names:
        raise InputError("there are no classes to make prompts of")
    if broken := [name for name in class_names if not _is_text(name)]:
        raise InputError(f"class names that are no valid text: {', '.join(map(ascii, broken))}")
    rows = [tokenizer.encode(template.replace("{}", name.replace("_", " "))) for name in class_names]
    for name, row in zip(class_names, rows, strict=True):
        if len(row) > text.context_length:
            raise InputError(
                f"class name {name!r} makes a prompt of {len(row)} tokens; this CLIP reads {text.context_length}"
            )
    shared = _shared(tokenizer.encode(template.split("{}")[0].rstrip())[:-1], rows)
    suffixes, end = _fill(tokenizer, [row[shared:] for row in rows], text, text.context_length - shared)
    start = len(tokenizer.start_ids)
    return Prompts(*(np.array(x, np.int32) for x in (rows[0][:start], rows[0][start:shared], suffixes, end)))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fill(
    tokenizer: Tokenizer, suffixes: Sequence[list[int]], text: Text, room: int
) -> tuple[list[list[int]], list[int]]:
    """Suffixes of one length, and the index of the token that becomes the feature."""
    last = [len(suffix) - 1 for suffix in suffixes]
    if text.transformer.causal and text.pool == "end":
        length, pad = max(map(len, suffixes)), tokenizer.end_id
    else:
        length, pad = room, tokenizer.pad_id
        LOG.info(_WHOLE[text.transformer.causal], text.context_length)
    if text.pool == "last":
        last = [length - 1] * len(suffixes)
    return [suffix + [pad] * (length - len(suffix)) for suffix in suffixes], last


def _shared(before: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    """How many of the tokens before the name start every row (a name glued to a word may merge with it)."""
    shared = len(before)
    while any(row[:shared] != before[:shared] for row in rows):
        shared -= 1
    return shared
