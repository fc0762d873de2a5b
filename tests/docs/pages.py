"""Pages of Markdown as the tests see them: their code blocks, links and headings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>[^\n]*) -->\n(?P=indent))?"
    r"```(?P<language>\w*)\n(?P<content>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        mark: what the comment above it says, or nothing.
        line: where it begins.
    """

    language: str
    mark: str
    content: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(
            found["language"],
            found["mark"] or "",
            textwrap.dedent(found["content"]),
            text.count("\n", 0, found.start()) + 1,
        )
        for found in _BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Targets of its links and pictures that lie in the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The ids that Markdown makes of its headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def quoted(page: Path) -> Iterator[str]:
    """Terms of a list of definitions, as far as they are in code font: what error messages say."""
    for term in re.findall(r"^(`.*)\n:   ", page.read_text(), re.MULTILINE):
        yield from (part.strip(" `") for part in re.split(r"`, `", term))
