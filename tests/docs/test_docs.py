"""What the README and the docs say is true: their blocks run, their links lead somewhere, their errors exist."""

import ast
import re
import subprocess
import sys

import pages
import pytest
from pages import PAGES, ROOT

REASONS = (
    "installs packages",
    "needs a file of yours",
    "needs a dataset",
    "needs a network",
    "needs PyTorch",
    "takes minutes",
    "needs a cluster",
    "needs a cloud",
    "needs the extras",
)
RUNNABLE, SHOWN = ("sh", "python"), ("text", "bibtex")
WITH_COMMANDS = [page for page in PAGES if any(block.language in RUNNABLE for block in pages.blocks(page))]


def long_but_for_the_readme(page):
    marks = () if page.name == "README.md" else pytest.mark.long
    return pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


def is_run(block):
    return block.language in RUNNABLE and not block.mark.startswith("not run: ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_are_marked(page):
    for block in pages.blocks(page):
        assert block.language in RUNNABLE + SHOWN, f"line {block.line}"
        kind, _, reason = block.mark.partition(": ")
        if block.language in RUNNABLE:
            assert kind == "" or (kind == "not run" and reason in REASONS), f"line {block.line}"
        else:
            assert block.mark in ("", "prints"), f"line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in pages.links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if target.parent == ROOT / "docs" / "reference" and target.name != "index.md":
            continue  # made by docs/hooks.py, and checked by the strict build
        assert target.exists(), link
        assert not anchor or anchor in pages.anchors(target), link


# ------------------------------------------------------------------------------------------------ blocks


@pytest.mark.parametrize("page", [long_but_for_the_readme(page) for page in WITH_COMMANDS])
def test_blocks_run(page, environment, tmp_path):
    """Each in a process of its own, one after another in one empty folder."""
    printed = None
    for block in pages.blocks(page):
        if block.language in RUNNABLE:
            printed = run(block, tmp_path, environment) if is_run(block) else None
        elif block.mark == "prints":
            assert printed is not None, f"line {block.line}: what stands before it is not run"
            check(block.content, printed)


def run(block, folder, environment):
    """What a block prints."""
    command = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.language]
    done = subprocess.run(
        [*command, block.content],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"line {block.line}:\n{block.content}\n{done.stderr}"
    return done.stdout


def check(said, printed):
    """Every line that a page shows is printed, in that order; a line of seconds by its words alone."""
    lines = iter(filter(None, printed.splitlines()))
    for line in filter(None, said.splitlines()):
        assert any(alike(line, other) for other in lines), f"{line!r} is not in\n{printed}"


def alike(said, printed):
    """The same words, and numbers within a tenth: other processors round differently."""
    number = r"[-+]?\d[\d,]*\.?\d*"
    if re.sub(number, "0", said).split() != re.sub(number, "0", printed).split():
        return False
    if "seconds" in said:
        return True
    ours, theirs = ([float(x.replace(",", "")) for x in re.findall(number, line)] for line in (said, printed))
    return all(abs(a - b) <= max(0.1, 0.1 * abs(a)) for a, b in zip(ours, theirs, strict=True))


def test_lines_are_compared_loosely():
    assert alike("  PiNI, mean noise   92.4%  0.270", "  PiNI, mean noise  92.9%  0.274")
    assert not alike("  PiNI, mean noise   92.4%  0.270", "  PiNI, mean noise  75.0%  0.877")
    assert not alike("  PiNI, mean noise   92.4%", "  zero-shot CLIP  92.4%")
    assert alike("1,000 steps; seconds: train 1.8", "1,000 steps; seconds: train 9.9")
    with pytest.raises(AssertionError):
        check("first\nsecond\n", "second\nfirst\n")


def test_the_readme_shows_what_a_tested_page_shows():
    shown = [block.content for block in pages.blocks(ROOT / "docs" / "index.md") if block.mark == "prints"]
    readme = [block.content for block in pages.blocks(ROOT / "README.md") if "zero-shot CLIP" in block.content]
    assert readme and set(readme) <= set(shown)


# ------------------------------------------------------------------------------------------------ words


def literals():
    """All texts of the package, with … for what is filled in."""
    for file in (ROOT / "pini_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)


def test_errors_of_the_docs_are_errors_of_the_package():
    texts = list(literals())
    for term in pages.quoted(ROOT / "docs" / "trouble.md"):
        pieces = [re.escape(piece.strip()) for piece in term.split("…") if piece.strip()]
        pattern = re.compile(r"[\s\S]*".join(pieces) or "…")
        assert any(pattern.search(text) for text in texts), term


def test_every_room_is_on_the_page_of_the_architecture():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    rooms = {folder.parent.name for folder in (ROOT / "pini_jax").glob("*/__init__.py")}
    assert rooms <= set(rows)


def test_every_command_is_in_the_table():
    from pini_jax import cli

    table = (ROOT / "docs" / "index.md").read_text()
    assert not [name for name in cli.COMMANDS if f"| `pini {name}` |" not in table]


def test_methods_and_sites_are_in_the_tables():
    from pini_jax.methods import registry
    from pini_jax.noise import sites

    compared, method = ((ROOT / "docs" / name).read_text() for name in ("compared.md", "method.md"))
    assert not [name for name in registry.METHODS if name != "pini" and f"`{name}`" not in compared]
    for site in sites.SITES.values():
        (row,) = [line for line in method.splitlines() if line.startswith(f"| `{site.name}` |")]
        assert not [name for name in site.generators if f"`{name}`" not in row]


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


# ------------------------------------------------------------------------------------------------ site


def test_the_site_is_built_strictly(tmp_path):
    pytest.importorskip("mkdocstrings", reason="the site needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = (tmp_path / "site" / "method" / "index.html").read_text()
    assert "<math" in built and "arithmatex" not in built
    fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(https?:[^"]*)"', built)
    assert not fetched, "the site works without a network"
