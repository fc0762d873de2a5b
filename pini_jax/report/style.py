"""How figures look: at the width of a journal's column, in print and to the colour-blind."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

matplotlib.use("Agg")  # no window

COLUMN = 3.4  # inches
DOTS = 300  # of a PNG, per inch
GREY = "#b0b0b0"
# Okabe and Ito's colours without yellow, each with a marker and a dash of its own: they survive a grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (4, 1, 1, 1, 1, 1)), "-")
SETTINGS: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "text.parse_math": False,  # a name with a $ is not a formula
    "pdf.fonttype": 42,  # letters stay letters
    "svg.hashsalt": "pini_jax",
}


class Captioned(NamedTuple):
    """A figure with what stands beside it.

    Attributes:
        name: of its files.
        text: what it shows and how it is read.
        alt: what one sees, for who does not see it.
    """

    name: str
    title: str
    text: str
    alt: str
    figure: plt.Figure


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """All that is drawn within looks alike."""
    with plt.rc_context(SETTINGS):
        yield


def save(drawn: Captioned, folder: Path, prefix: str = "") -> Path:
    """Writes PNG and PDF, closes the figure, and returns the PNG."""
    path = folder / f"{prefix}{drawn.name}.png"
    drawn.figure.savefig(path, dpi=DOTS, bbox_inches="tight", pad_inches=0.03)
    # Without the time: equal figures make equal files.
    metadata = {"CreationDate": None, "Title": drawn.title}
    drawn.figure.savefig(path.with_suffix(".pdf"), bbox_inches="tight", pad_inches=0.03, metadata=metadata)
    plt.close(drawn.figure)
    return path


def line_styles() -> Iterator[dict[str, Any]]:
    """Colour, marker and dash of one line after another."""
    for colour, marker, dash in itertools.cycle(zip(COLOURS, MARKERS, DASHES, strict=True)):
        yield {"color": colour, "marker": marker, "linestyle": dash}


def wrapped(label: str, width: int = 22) -> str:
    """A label on as many lines as it needs, cut nowhere but at blanks and behind punctuation."""
    lines, line = [], ""
    for word in label.replace("_", "_\u200b").replace(" ", " \u200b").replace("=", "=\u200b").split("\u200b"):
        if line and len(line) + len(word.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += word
    return "\n".join([*lines, line.rstrip()])


def spaced(places: Sequence[float], least: float) -> Float[np.ndarray, "n"]:
    """The places moved apart so that neighbours are at least so far from each other, and no more than it takes."""
    order = np.argsort(places, kind="stable")
    offsets = least * np.arange(len(order))
    wanted = np.asarray(places, float)[order] - offsets
    moved = np.empty(len(order))
    moved[order] = _monotone(wanted) + offsets
    return moved


def _monotone(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The closest sequence that does not fall (least squares, by pooling what does)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append(((a * n + b * m) / (n + m), n + m))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools])
