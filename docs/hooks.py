"""What the site makes while it is built: formulas as MathML, and a page of reference for every room.

No script of the reader's browser makes either, and nothing is fetched: the site works without a network.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parent.parent / "pini_jax"
FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages of `rooms` behind the last entry of the navigation."""
    (reference,) = config.nav[-1].values()
    reference += [{name: f"reference/{name}.md"} for name in rooms(PACKAGE)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of `rooms`."""
    for name, modules in rooms(PACKAGE).items():
        blocks = "\n\n".join(f"::: {module}" for module in modules)
        files.append(File.generated(config, f"reference/{name}.md", content=f"# {name}\n\n{blocks}\n"))
    return files


def rooms(package: Path) -> dict[str, list[str]]:
    """Title of a page -> the modules that it documents: those beside the folders, or all of a folder."""
    folders = sorted(path.parent for path in package.glob("*/__init__.py"))
    pages = {package: package.glob("*.py")} | {folder: folder.rglob("*.py") for folder in folders}
    return {_name(folder, package): _modules(files, package) for folder, files in pages.items()}


def _modules(files: Iterable[Path], package: Path) -> list[str]:
    return sorted(_name(file.with_suffix(""), package) for file in files if not file.stem.startswith("__"))


def _name(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package.parent).parts)


def on_page_content(content: str, **_) -> str:
    """Formulas as MathML."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match) -> str:
    display = "block" if found["tag"] == "div" else "inline"
    return latex2mathml.converter.convert(html.unescape(found["tex"]), display=display)
