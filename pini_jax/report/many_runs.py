"""The report of many runs: tables, tests and figures of every dataset and CLIP, and what is not finished."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pini_jax.core.copies import place_of
from pini_jax.report import figures, outcomes, page, statistics, style, tables
from pini_jax.report.collect import Collected, Entry, by_label, by_place
from pini_jax.report.outcomes import PLAIN, Comparison
from pini_jax.report.page import Block, Items, Page, Paragraph, Section, TableBlock
from pini_jax.report.unfinished import FAILED, NOT_BEGUN, UNDER_WAY, Unfinished

SHOWN = 12  # rows of a table that is not folded


def report_runs(collected: Collected, unfinished: Sequence[Unfinished], output: Path) -> tuple[Page, str]:
    """Writes tables and figures to a folder, and returns the page and the Markdown that show them."""
    places = by_place(collected.entries)
    comparisons = {title: outcomes.compare(entries) for title, entries in places.items()}
    _write_frames(collected, unfinished, comparisons, output)
    sections, markdown = [], []
    for (title, entries), prefix in zip(places.items(), _prefixes(list(places)), strict=True):
        wide = tables.wide_frames(entries)
        for name, frame in wide.items():
            tables.write_table(frame.rename_axis(name).reset_index(), output, prefix + slug(name))
        with style.styled():
            drawn = {x: style.save(x, output, prefix) for x in figures.draw_figures(entries, comparisons[title])}
        sections.append(Section(title, _blocks(entries, wide, comparisons[title], drawn)))
        markdown += [f"# {title}", *(tables.markdown(name, frame) for name, frame in wide.items())]
        markdown += [f"![{x.alt}]({file.name})\n\n{x.text}" for x, file in drawn.items()]
    sections += [Section("What was read", _read(collected, unfinished))]
    markdown += ["# What was read", *_sentences(collected, unfinished)]
    lead = " ".join([*(_lead(title, entries, comparisons[title]) for title, entries in places.items())])
    whole = Page(_title(places), lead or "No run is finished.", sections)
    return whole, "\n\n".join(markdown) + "\n"


def slug(title: str) -> str:
    """A title as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:60]


def _prefixes(titles: Sequence[str]) -> list[str]:
    """What the names of files of every place begin with; a number tells apart those that are one as a slug."""
    slugs = [slug(title) for title in titles]
    numbers = [f"_{i + 1}" if slugs.count(name) > 1 else "" for i, name in enumerate(slugs)]
    return [f"{name}{number}-" if len(titles) > 1 else "" for name, number in zip(slugs, numbers, strict=True)]


def _write_frames(
    collected: Collected,
    unfinished: Sequence[Unfinished],
    comparisons: Mapping[str, Sequence[Comparison]],
    output: Path,
) -> None:
    frames = {"unfinished": tables.unfinished_frame(unfinished), "left_out": tables.left_out_frame(collected)}
    if collected.entries:
        runs = tables.runs_frame(collected.entries)
        frames |= {"runs": runs, "summary": tables.summary_frame(runs)}
        frames["comparisons"] = tables.comparisons_frame(comparisons)
    for name, frame in frames.items():
        if len(frame):
            tables.write_table(frame, output, name)


def _title(places: Mapping[str, Sequence[Entry]]) -> str:
    runs = sum(map(len, places.values()))
    return f"{runs} runs on {next(iter(places))}" if len(places) == 1 else f"{runs} runs on {len(places)} datasets"


def _lead(title: str, entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> str:
    """Who is first, and whom nobody can tell from it."""
    groups = figures.ordered(entries)
    ranked = figures.at_all_shots(groups)
    if not ranked:
        return f"{title}: no method has runs at all shots, so that none is called the best."
    best, *others = ranked
    plain = next(x for x in comparisons if x.first == best and x.second == PLAIN)
    said = (
        f"{title}: {best} has the highest mean accuracy, {figures.mean_accuracy(groups[best]):.1%}, "
        f"{100 * plain.difference.mean:+.1f} points to plain CLIP."
    )
    close = len(others) - int(outcomes.differ(ranked, comparisons)[0].sum())
    if close:
        said += f" {close} of {len(others)} other methods cannot be told from it by these runs."
    elif others:
        said += " It differs from every other beyond chance."
    if lacking := len(groups) - len(ranked):
        said += f" {lacking} of {len(groups)} methods lack runs at some shots, and are not ranked."
    return said


def _blocks(
    entries: Sequence[Entry],
    wide: Mapping[str, pd.DataFrame],
    comparisons: Sequence[Comparison],
    drawn: Mapping[style.Captioned, Path],
) -> list[Block]:
    seeds = sorted({entry.result["seed"] for entry in entries})
    text = (
        f"{len(by_label(entries))} methods, seeds {', '.join(map(str, seeds))}. Cells are means over seeds ± "
        "sample standard deviation (n − 1); the last column is the mean over shots; – where there is no run."
    )
    first, *others = wide.items()
    pictures = {x.name: page.picture(x, file) for x, file in drawn.items()}
    head: list[Block] = [Paragraph(text), TableBlock(first[0], "", first[1].rename_axis("method"))]
    return [
        *head,
        *(pictures[name] for name in ("accuracy", "differences") if name in pictures),
        *_tests(comparisons),
        *(pictures[name] for name in ("reliability", "information") if name in pictures),
        *(TableBlock(name, "", frame.rename_axis("method"), folded=True) for name, frame in others),
    ]


def _tests(comparisons: Sequence[Comparison]) -> list[Block]:
    """The comparisons as a table, or why there is none."""
    known = [x for x in comparisons if not np.isnan(x.difference.p)]
    if not known:
        return [Paragraph("One seed without predictions tells nothing of chance: there is no test.")]
    alone = [x for x in known if x.images == 1]
    text = (
        "Differences in mean accuracy in points, over the shots that both have; 95 % intervals by paired "
        f"bootstrap over images and seeds, each on its own; p by Holm's correction for {len(known)} comparisons. "
    )
    if alone:
        text += (
            f"{len(alone)} of them know seeds alone, since runs kept no predictions or tested on other images. "
        )
    if any(x.seeds == 1 for x in known):
        text += "With one seed a test says nothing of how chance in training would have turned out. "
    rows = {
        f"{x.first} − {x.second}": (
            f"{100 * x.difference.mean:+.1f}",
            f"{100 * x.difference.low:+.1f} to {100 * x.difference.high:+.1f}",
            _p(x.difference.p),
            _p(x.adjusted),
            "yes" if x.adjusted < statistics.LEVEL else "no",
        )
        for x in sorted(known, key=lambda x: x.adjusted)
    }
    columns = ["difference", "95 % interval", "p alone", "p (Holm)", "told apart"]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("methods")
    return [TableBlock("Paired tests", text.strip(), frame, folded=len(rows) > SHOWN)]


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _sentences(collected: Collected, unfinished: Sequence[Unfinished]) -> list[str]:
    """How many runs count, and how many do not, and why."""
    reasons = Counter("read twice" if "once more" in x else x for x in collected.left_out.values())
    states = Counter(x.state for x in unfinished)
    return [
        f"{len(collected.entries)} finished runs count.",
        *(f"{number} left out: {reason}." for reason, number in reasons.items()),
        *(f"{states[state]} {state}." for state in (UNDER_WAY, FAILED, NOT_BEGUN) if states[state]),
    ]


def _read(collected: Collected, unfinished: Sequence[Unfinished]) -> list[Block]:
    blocks: list[Block] = [Items(_sentences(collected, unfinished))]
    if unfinished:
        rows = {place_of(x.folder): (x.state, _progress(x), x.reason) for x in unfinished}
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["state", "progress", "reason"])
        blocks.append(
            TableBlock("Runs without a result", "", frame.rename_axis("folder"), folded=len(rows) > SHOWN)
        )
    if collected.left_out:
        frame = tables.left_out_frame(collected).set_index("folder")
        blocks.append(TableBlock("Left out", "", frame, folded=len(frame) > SHOWN))
    runs = pd.DataFrame(
        [(place_of(x.folder), x.label, x.result["shots"], x.result["seed"]) for x in collected.entries],
        columns=["folder", "method", "shots", "seed"],
    )
    return [*blocks, TableBlock("Runs that count", "", runs.set_index("folder"), folded=True)]


def _progress(run: Unfinished) -> str:
    if not run.step:
        return ""
    return (
        f"{run.step:,} of {run.steps:,} steps ({run.step / run.steps:.0%})" if run.steps else f"{run.step:,} steps"
    )
