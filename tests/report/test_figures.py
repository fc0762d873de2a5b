"""Figures of many runs: that nothing is left out, and that it can be read."""

import itertools

import numpy as np
import pytest
import sweeps
from PIL import Image

from pini_jax.report import collect, figures, outcomes, style


def drawn(folder, methods):
    sweeps.write_sweep(folder, sweeps.NAMES[:methods], shots=(1, 4), seeds=(1, 2), images=60)
    entries = collect.read_runs([folder])
    with style.styled():
        return {x.name: x for x in figures.draw_figures(entries, outcomes.compare(entries))}


def texts(figure):
    """All that is written in a figure, without line breaks."""
    return [
        x.get_text().replace("\n", "").replace(" ", "")
        for x in figure.findobj(match=lambda x: hasattr(x, "get_text"))
    ]


@pytest.mark.parametrize("methods", [1, 3, 8])
def test_every_method_is_in_every_figure(methods, tmp_path):
    """On one panel or on many."""
    found = drawn(tmp_path / "runs", methods)
    assert list(found) == ["accuracy", "differences", "reliability", "information"]
    for figure in found.values():
        written = texts(figure.figure)
        for name in sweeps.NAMES[:methods]:
            assert any(text.startswith(name.replace(" ", "")) for text in written), (figure.name, name)
        path = style.save(figure, tmp_path)
        width, _ = Image.open(path).size
        assert width < 1.05 * style.COLUMN * 300 and path.with_suffix(".pdf").exists() and figure.alt
    assert len(found["accuracy"].figure.axes) == (1 if methods <= figures.TOGETHER else 9)


def test_what_is_drawn_of_accuracies_are_accuracies(tmp_path):
    """With two seeds the band of 95 % may be ten times as wide, and lines would be flat."""
    low, high = drawn(tmp_path, 1)["accuracy"].figure.axes[0].get_ylim()
    assert -6 < low < high < 106


@pytest.mark.parametrize("lines", [1, 2, 5])
def test_names_of_rows_do_not_overlap(lines):
    labels = ["one", "two", " ".join(["words of a name that is long"] * lines), "four", "five"]
    with style.styled():
        figure, (axes,) = figures._rows(labels, 1)
        figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(above.y0 > below.y1 - 1 for above, below in itertools.pairwise(boxes))


def test_one_number_of_shots_makes_no_line(tmp_path):
    sweeps.write_sweep(tmp_path, sweeps.NAMES[:2], shots=(4,), seeds=(1,), images=40)
    entries = collect.read_runs([tmp_path])
    assert figures.accuracy_figure(entries) is None
    assert figures.differences_figure(entries, outcomes.compare(entries)) is not None


def test_confidence_bands_are_student_s():
    values = [0.5, 0.6, 0.7]
    assert figures.half_width(values) == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    assert figures.half_width([0.5]) == 0


def test_labels_move_apart_as_little_as_it_takes():
    np.testing.assert_allclose(style.spaced([0, 10], 1), [0, 10])
    np.testing.assert_allclose(style.spaced([5, 5, 5], 2), [3, 5, 7])
    np.testing.assert_allclose(style.spaced([1, 0.5, 9], 1), [1.25, 0.25, 9])


def test_labels_are_wrapped_where_they_may_be():
    assert style.wrapped("image_features: cross_attention") == "image_features: cross_\nattention"
    assert style.wrapped("short") == "short"
    assert style.wrapped("x" * 40) == "x" * 40
