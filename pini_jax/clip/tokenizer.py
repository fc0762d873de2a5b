"""CLIP's byte-pair tokenizer, read from the checkpoint's own files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import tokenizers

from pini_jax.errors import InputError

START, END = "<|startoftext|>", "<|endoftext|>"


class Tokenizer(NamedTuple):
    """Text -> token ids between a start and an end token."""

    backend: tokenizers.Tokenizer
    start_id: int
    end_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, start and end tokens included, of any length."""
        return self.backend.encode(text).ids


def load(folder: Path) -> Tokenizer:
    """Reads `tokenizer.json`, or the older pair `vocab.json` and `merges.txt`, from a folder.

    Raises:
        InputError: the folder has neither, or they are no CLIP tokenizer.
    """
    if (folder / "tokenizer.json").exists():
        try:
            backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{folder / 'tokenizer.json'} cannot be read ({error})") from None
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        from transformers import CLIPTokenizer  # slow to import, and needed for old folders only

        try:
            backend = CLIPTokenizer.from_pretrained(folder).backend_tokenizer
        except Exception as error:  # as above
            raise InputError(f"vocab.json and merges.txt in {folder} cannot be read ({error})") from None
    else:
        raise InputError(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt")
    backend.no_padding()
    backend.no_truncation()
    start, end = backend.token_to_id(START), backend.token_to_id(END)
    if start is None or end is None:
        raise InputError(f"the tokenizer in {folder} is not CLIP's: it has no {START} and {END}")
    if backend.encode("").ids != [start, end]:
        raise InputError(f"the tokenizer in {folder} does not put {START} and {END} around a text")
    return Tokenizer(backend, start, end)
