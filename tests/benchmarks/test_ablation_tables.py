"""The tables of the ablation, by hand."""

from types import SimpleNamespace

import pytest

from benchmarks import ablation


def entry(label, shots, accuracy, nats):
    modes = {
        mode: {"accuracy": accuracy + more, "nll": 1.0 - more} for mode, more in (("mean", 0), ("marginal", 0.1))
    }
    draws = {
        name: {"nats": nats / part, "standard_error": 0.01} for name, part in (("averaged", 1), ("calibrated", 2))
    }
    return SimpleNamespace(label=label, result={"shots": shots, "test": modes, "draws": draws})


@pytest.fixture
def groups():
    """Of two seeds each."""
    mlp = [entry("mlp", shots, accuracy, 0.2) for shots in (4, 1) for accuracy in (0.5, 0.6)]
    alone = [entry("mlp, mean_only", shots, 0.25 * shots, 0.0) for shots in (1, 1, 4)]
    return ablation.grouped(
        [entry("none", 1, 0.4, 0.0), entry("none", 4, 0.4, 0.0), *mlp, *alone, entry("k", 4, 0.5, 0)]
    )


def test_a_row_has_all_shots_of_a_variant(groups):
    head, _, none, mlp, k = ablation.variants("dtd", groups).splitlines()
    assert head.startswith("| dtd, 1 / 4 shots | %, `mean` | %, `marginal` |")
    assert k.startswith("| `k` | - / 50.0 |"), "no run with one shot has finished"
    assert none.startswith("| `none` | 40.0 / 40.0 | 50.0 / 50.0 |")
    cells = mlp.strip("| ").split(" | ")
    assert cells[1:5] == ["55.0 / 55.0", "65.0 / 65.0", "1.00 / 1.00", "0.90 / 0.90"]
    assert cells[5:] == ["+200 ± 10 / +200 ± 10", "+100 ± 10 / +100 ± 10"]


def test_noise_stands_beside_the_mean_that_has_seen_none(groups):
    _, _, *rows = ablation.with_and_without("dtd", groups).splitlines()
    assert rows == ["| `mlp` | 55.0 / 55.0 | 25.0 / 100.0 | 1.00 / 1.00 | 1.00 / 1.00 |"]


def test_the_figure_has_a_row_for_every_generator(groups):
    accuracy, draws = ablation.draw({"dtd": groups}).axes
    assert [text.get_text() for text in accuracy.get_yticklabels()] == ["mlp"]
    assert [float(line.get_xdata()[0]) for line in accuracy.lines[:2]] == pytest.approx([30, -45])
    assert [text.get_text() for text in draws.get_legend().get_texts()] == ["1 shot", "4 shots"]
