"""report.html: one file of sections and blocks, which opens without a network.

A page is data: `many_runs` and `one_run` say what stands on it, and the templates how it looks.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import markupsafe
import pandas as pd
from PIL import Image

import pini_jax
from pini_jax.report.style import DOTS, Captioned

FOLDER = Path(__file__).parent / "templates"
CSS_DOTS = 96 * 1.5  # figures are drawn for print, and read at one and a half times their size


class Paragraph(NamedTuple):
    """A paragraph."""

    text: str
    kind: str = "text"


class Items(NamedTuple):
    """A list."""

    items: Sequence[str]
    kind: str = "list"


class Code(NamedTuple):
    """What is typed or was written, as it is."""

    text: str
    kind: str = "code"


class Picture(NamedTuple):
    """A figure, with its file in it.

    Attributes:
        name: of the file beside the page.
    """

    name: str
    title: str
    text: str
    alt: str
    source: str
    width: int
    height: int
    kind: str = "picture"


class TableBlock(NamedTuple):
    """A data frame; its index is the head of every row.

    Attributes:
        folded: shown when it is asked for.
    """

    title: str
    text: str
    frame: pd.DataFrame
    folded: bool = False
    kind: str = "table"

    @property
    def columns(self) -> list[str]:
        """The heads of the columns."""
        return [str(self.frame.index.name or ""), *map(str, self.frame.columns)]

    @property
    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """The head of every row, and its cells."""
        for head, *cells in self.frame.itertuples(name=None):
            yield str(head), [str(cell) for cell in cells]


class Thumbnail(NamedTuple):
    """An image of a gallery; `source` is empty where its file is gone."""

    name: str
    text: str
    alt: str
    source: str


class Gallery(NamedTuple):
    """Images in a grid."""

    title: str
    text: str
    items: Sequence[Thumbnail]
    kind: str = "gallery"


Block = Paragraph | Items | Code | Picture | TableBlock | Gallery


class Section(NamedTuple):
    """What stands under one heading."""

    title: str
    blocks: Sequence[Block]


class Page(NamedTuple):
    """A whole page.

    Attributes:
        lead: what it says, in a sentence or two of plain words.
    """

    title: str
    lead: str
    sections: Sequence[Section]


def render(page: Page) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    macros = environment.get_template("blocks.html.j2").module
    kinds = {name: getattr(macros, name) for name in ("text", "list", "code", "picture", "table", "gallery")}
    # Our own files, which hold nothing of the runs.
    style, script = (markupsafe.Markup((FOLDER / name).read_text("utf-8")) for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        page=page, kinds=kinds, style=style, script=script, version=pini_jax.__version__
    )


def picture(drawn: Captioned, file: Path) -> Picture:
    """A figure with its PNG."""
    with Image.open(file) as image:
        width, height = (round(x * CSS_DOTS / DOTS) for x in image.size)
    return Picture(
        file.name, drawn.title, drawn.text, drawn.alt, data_uri(file.read_bytes(), "image/png"), width, height
    )


def data_uri(content: bytes, kind: str) -> str:
    """What stands in a page instead of a file's address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
