"""Docstrings are plain text: brackets are shapes and arguments, stars are axes, and neither is Markdown."""

from __future__ import annotations

import re

import griffe

CODE = re.compile(r"(`[^`]*`|^ {4,}.*$)", re.MULTILINE)  # what stays as it is
MARKS = re.compile(r"([\[\]*])")


class PlainText(griffe.Extension):
    """Escapes what Markdown would take for a link or for emphasis."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            parts = CODE.split(obj.docstring.value)
            obj.docstring.value = "".join(x if i % 2 else MARKS.sub(r"\\\1", x) for i, x in enumerate(parts))
