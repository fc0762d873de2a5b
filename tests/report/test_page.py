"""report.html in a browser: on its own, on a phone, by keyboard."""

import html
import os
import re
import shutil
import sys

import emulators
import pandas as pd
import pytest
import sweeps

from pini_jax.core import command
from pini_jax.core.bucket import open_bucket
from pini_jax.report import __main__ as program
from pini_jax.report import one_run

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def write_report(monkeypatch, output, *folders):
    monkeypatch.setattr(sys, "argv", ["pini report", *map(str, folders), f"--output={output}"])
    command.run(program.COMMAND)
    return output / "report.html"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of many runs, two of which are not finished, and of one."""
    top = tmp_path_factory.mktemp("sweep")
    sweeps.write_sweep(top / "runs", sweeps.NAMES[:7], shots=(1, 4), seeds=(1, 2), classes=5, images=60)
    sweeps.interrupt(top / "runs" / "00-shots_1-seed_1", top / "runs" / "01-shots_4-seed_2")
    with pytest.MonkeyPatch.context() as patch:
        return {
            "many": write_report(patch, top / "many", top / "runs"),
            "one": write_report(patch, top / "one", top / "runs" / "02-shots_4-seed_1"),
        }


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["many", "one"])
def name(request):
    return request.param


@pytest.fixture
def page(browser, reports, name):
    """The page on a phone, and all that it complains of or asks for."""
    context = browser.new_context(viewport={"width": 360, "height": 700}, offline=True)
    page = context.new_page()
    page.complaints, page.asked = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(reports[name].as_uri())
    yield page
    context.close()


def test_it_stands_alone_without_errors(page):
    page.wait_for_load_state()
    assert page.complaints == []
    assert all(url.startswith(("data:", "file:")) for url in page.asked)
    assert sum(url.startswith("file:") for url in page.asked) == 1
    shown = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert shown and all(shown)


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_scrolls_sideways_but_tables(page, width):
    page.set_viewport_size({"width": width, "height": 700})
    for details in page.query_selector_all("details"):
        details.evaluate("element => { element.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    texts = "[...document.querySelectorAll('caption span')].map(text => text.getBoundingClientRect().right)"
    rights = page.evaluate(texts)
    assert rights and max(rights) <= width  # a table may be wider, and what explains it is read without it


def test_it_is_used_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    head = page.locator("table").first.locator("thead button").nth(1)
    head.focus()
    page.keyboard.press("Enter")
    cells = page.locator("table").first.locator("tbody tr td:nth-child(2)").all_text_contents()
    numbers = [float(re.match(r"[-+]?[\d.]+", cell)[0]) for cell in cells if cell[0].isdigit()]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) > 1
    assert page.locator("th[aria-sort=descending]").count() == 1
    for details in page.query_selector_all("summary"):
        details.focus()
        page.keyboard.press("Enter")
        assert details.evaluate("element => element.parentElement.open")


def test_columns_are_sorted_by_size(page):
    """A p-value below what is printed comes first, and millions after thousands."""
    table = page.locator("table").first
    cells, given = table.locator("tbody tr td:nth-child(2)"), ["1,234,567", "0.030", "< 0.001", "1,500"]
    cells.evaluate_all("(cells, given) => given.forEach((text, i) => { cells[i].textContent = text })", given)
    table.locator("thead button").nth(1).evaluate("button => { button.click(); button.click() }")
    found = [text for text in cells.all_text_contents() if text in given]
    assert found == ["< 0.001", "0.030", "1,500", "1,234,567"]


def test_it_is_said_to_who_does_not_see(page):
    assert all(page.evaluate("[...document.images].map(image => image.alt.length > 10)"))
    assert page.evaluate("document.documentElement.lang") == "en" and page.title()
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(head => +head.tagName[1])")
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert page.evaluate("[...document.querySelectorAll('table')].every(table => table.caption.textContent)")
    assert page.evaluate("[...document.querySelectorAll('th')].every(head => head.scope)")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))


# --------------------------------------------------------------------------------------------- without a browser


def test_nothing_is_left_out_silently(reports):
    text = reports["many"].read_text()
    for name in sweeps.NAMES[:7]:
        assert html.escape(name) in text
    for words in (
        "26 finished runs count.",
        "1 under way.",
        "1 failed.",
        "200 of 300 steps (67%)",
        "the loss is nan",
    ):
        assert words in text
    assert "<script src" not in text and "http" not in text.replace("http-equiv", "")


def test_a_run_is_told_in_plain_words(reports):
    text = reports["one"].read_text()
    assert re.search(r"\d+ of 60 test images are right; without training \d+% were.", text)
    assert re.search(r"Class class_\d is most often taken for class_\d \(\d+ of \d+\)", text)
    words = (
        "Surest mistakes",
        "Least sure",
        "Confusion",
        "Reliability",
        "Plausible classes",
        "by 20 held-out images",
        "24 have no picture",
    )
    for said in (*words, "pini reproduce", "class_3/"):
        assert said in text


def test_all_of_it_stands_beside_the_page(reports):
    many, one = ({path.name for path in reports[name].parent.iterdir()} for name in ("many", "one"))
    assert {
        "report.html",
        "report.md",
        "accuracy.png",
        "accuracy.pdf",
        "differences.pdf",
        "comparisons.tex",
    } <= many
    frames = ("runs", "summary", "comparisons", "unfinished")
    assert {f"{name}.{suffix}" for name in frames for suffix in ("csv", "parquet")} <= many
    assert {"confusion.png", "confusion.csv", "classes.parquet", "training.pdf", "report.md"} <= one


def test_what_names_hold_is_text(tmp_path, monkeypatch):
    """Neither HTML, nor a formula of a figure's."""
    names = ["<script>alert(1)</script>", r"$\frac{a}$"]
    sweeps.write_sweep(tmp_path / "runs", names, shots=(1, 4), seeds=(1, 2), images=20)
    text = write_report(monkeypatch, tmp_path / "report", tmp_path / "runs").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_classes_may_have_any_names(tmp_path, monkeypatch):
    """A line break, a letter of the terminal's, a column's name, a cell's border."""
    names = ["class", "a\nb", "\x1b[31mred", "c|d"]
    sweeps.write_sweep(tmp_path / "runs", ["structured"], shots=(1,), seeds=(1,), images=40, class_names=names)
    write_report(monkeypatch, tmp_path / "report", tmp_path / "runs")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| a b " in text and r"| c\|d " in text and "\x1b" not in text
    assert re.search(r"Least sure: 24 of 40\..*\n\n- class_\d/\d{4}\.png: ", text)
    confusion = pd.read_csv(tmp_path / "report" / "confusion.csv", index_col=0)
    assert list(confusion) == list(confusion.index) == ["class", "a b", "[31mred", "c|d"]


def test_few_images_promise_nothing():
    few = {"held_out": 8, "promised_coverage": [1.0, 1.0], "level": 0.9, "score": "energy", "modes": {}}
    (table,) = one_run._doubt(few)
    assert table.text.startswith("8 held-out images are too few to promise 90%, so that every class is plausible.")


def test_runs_in_a_bucket_are_called_by_their_addresses(tmp_path, monkeypatch):
    """Not by those of their copies here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sweeps.write_sweep(tmp_path / "runs", ["structured"], shots=(1,), seeds=(1, 2), images=40)
    with emulators.bucket("memory") as url:
        place = open_bucket(url)
        for file in (tmp_path / "runs").rglob("*.*"):
            place.put(file.relative_to(tmp_path).as_posix(), file.read_bytes())
        for top, words in (("runs", ""), ("runs/00-shots_1-seed_1", "pini predict --workdir=")):
            page = write_report(monkeypatch, tmp_path / top.replace("/", "_") / "report", f"{url}/{top}")
            text = page.read_text()
            assert f"{words}{url}/runs/00-shots_1-seed_1" in text and str(tmp_path) not in text
