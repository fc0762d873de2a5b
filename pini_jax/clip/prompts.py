"""Class names to token ids, split where the classes part."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pini_jax.clip.architecture import TextSizes
from pini_jax.clip.tokenizer import Tokenizer
from pini_jax.core.errors import InputError
from pini_jax.core.wording import MOST, is_text, listed, quoted

LOG = logging.getLogger(__name__)
ROW = 64  # tokens of a packed row: attention within it costs little beside the matrices
MANY_ROWS = 32
_WHOLE = {
    False: "bidirectional text: all %d positions of every class are encoded (no shared prefix)",
    True: "text is read from its last position: all %d positions of every class are encoded",
}


class Prompts(NamedTuple):
    """Prompts that share everything before the class name; a pytree of arrays.

    The prompt of class c is [start, prefix, suffix_c]. The suffixes stand in r rows of s tokens: one in a row, or
    packed.

    Attributes:
        start: ids of what stands before every text: CLIP's start token, or nothing.
        prefix: ids of the p tokens that all classes share; these get the noise.
        suffix: ids from the class name on, the end token and what fills up included.
        place: where a token stands in its prompt, behind start and prefix: 0, 1, ...
        owner: the class of a token; -1 for what fills up a packed row.
        end: which of all r * s tokens becomes the feature of a class.
    """

    start: Int[np.ndarray, "a"]
    prefix: Int[np.ndarray, "p"]
    suffix: Int[np.ndarray, "r s"]
    place: Int[np.ndarray, "r s"]
    owner: Int[np.ndarray, "r s"]
    end: Int[np.ndarray, "c"]


def build(tokenizer: Tokenizer, template: str, class_names: Sequence[str], text: TextSizes) -> Prompts:
    """Tokenises `template` with every class name in the place of its `{}`; `_` in a name becomes a space.

    A row is one class, as long as the longest; up to the context length if the tower sees what comes after the end
    token.

    Args:
        tokenizer: of the checkpoint.
        template: text with one `{}`.
        class_names: c names.
        text: sizes of the text tower.

    Raises:
        InputError: the template has no single `{}`, there is no class, a name is no text, a prompt is longer than
            the context, or classes of different names have the same tokens.
    """
    if template.count("{}") != 1:
        raise InputError(f"template {template!r} must hold {{}} exactly once, where the class name goes")
    if not class_names:
        raise InputError("there are no classes to make prompts of")
    if broken := [name for name in class_names if not is_text(name)]:
        raise InputError(f"class names that are no valid text: {listed(map(ascii, broken))}")
    rows = [tokenizer.encode(template.replace("{}", name.replace("_", " "))) for name in class_names]
    for name, row in zip(class_names, rows, strict=True):
        if len(row) > text.context_length:
            raise InputError(
                f"class name {quoted(name)} makes a prompt of {len(row)} tokens; this CLIP reads"
                f" {text.context_length}"
            )
    if same := _alike(class_names, rows):
        raise InputError(f"classes that this CLIP's tokenizer cannot tell apart: {listed(same)}; rename them")
    shared = _shared(tokenizer.encode(template.split("{}")[0].rstrip())[:-1], rows)
    suffixes, end = _fill(tokenizer, [row[shared:] for row in rows], text, text.context_length - shared)
    start, (c, s) = len(tokenizer.start_ids), np.shape(suffixes)
    places, owners = np.broadcast_to(np.arange(s), (c, s)), np.broadcast_to(np.arange(c)[:, None], (c, s))
    arrays = rows[0][:start], rows[0][start:shared], suffixes, places, owners, np.arange(c) * s + end
    return Prompts(*(np.array(x, np.int32) for x in arrays))


def _alike(class_names: Sequence[str], rows: Sequence[Sequence[int]]) -> list[str]:
    """'C' = 'C++' for names of the same tokens: SigLIP drops punctuation, and has one for what it does not know.

    One name for two classes is no matter of the tokenizer: as in ImageNet, a dataset may have it so.
    """
    names: dict[tuple[int, ...], dict[str, None]] = {}  # a dict as an ordered set
    for name, row in zip(class_names, rows, strict=True):
        names.setdefault(tuple(row), {})[name] = None
    return [" = ".join(map(quoted, [*same][:MOST])) for same in names.values() if len(same) > 1]


def lay_out(prompts: Prompts, text: TextSizes, shards: int) -> Prompts:
    """The prompts in the rows that a tower of these sizes reads fastest; a multiple of `shards` rows."""
    if text.transformer.causal and text.pool == "end":
        return pack(prompts, shards)
    more = -len(prompts.suffix) % shards
    suffix, place, owner = (np.pad(x, ((0, more), (0, 0)), mode="edge") for x in prompts[2:5])
    return prompts._replace(suffix=suffix, place=place, owner=owner)


def pack(prompts: Prompts, shards: int = 1, room: int = ROW) -> Prompts:
    """The prompts with several suffixes per row, up to their end tokens, with almost no padding.

    For towers with causal attention, where a token sees those of its own class before it, and no other of its row.

    Args:
        shards: what the number of rows is a multiple of.
        room: tokens of a row, about.
    """
    c, s = len(prompts.end), prompts.suffix.shape[1]
    lengths = prompts.end - np.arange(c) * s + 1
    rows, length = _fit(lengths.tolist(), shards, room)
    suffix, place, owner = np.full((3, len(rows), length), [[[prompts.suffix[0, -1]]], [[0]], [[-1]]], np.int32)
    end = np.zeros(c, np.int32)
    for r, row in enumerate(rows):
        stop = 0
        for i in row:
            start, stop = stop, stop + lengths[i]
            suffix[r, start:stop] = prompts.suffix[i, : lengths[i]]
            place[r, start:stop] = np.arange(lengths[i])
            owner[r, start:stop] = i
            end[i] = r * length + stop - 1
    return prompts._replace(suffix=suffix, place=place, owner=owner, end=end)


def _fit(lengths: Sequence[int], shards: int, room: int) -> tuple[list[list[int]], int]:
    """Which suffixes stand in which row, and the rows' length."""
    num_rows = -(-sum(lengths) // max(room, *lengths))
    num_rows += -num_rows % shards
    length = max(-(-sum(lengths) // num_rows), *lengths)
    while (rows := _best_fit(lengths, num_rows, length)) is None:
        # Of what is a small part of the whole, one more.
        if num_rows < MANY_ROWS:
            length += 1
        else:
            num_rows += shards
    return rows, length


def _best_fit(lengths: Sequence[int], num_rows: int, length: int) -> list[list[int]] | None:
    """The longest first, each where least room is left; None if they do not fit."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    with_room: list[list[int]] = [[] for _ in range(length)] + [list(range(num_rows))]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        left = next((left for left in range(lengths[i], length + 1) if with_room[left]), None)
        if left is None:
            return None
        row = with_room[left].pop()
        rows[row].append(i)
        with_room[left - lengths[i]].append(row)
    return rows


def _fill(
    tokenizer: Tokenizer, suffixes: Sequence[list[int]], text: TextSizes, room: int
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
