"""Tables: what is in the frames, and that other programs read the files."""

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from test_collect import result, write

from pini_jax.report import collect, outcomes, tables


@pytest.fixture
def entries(tmp_path):
    for shots, seed, accuracy in ((1, 1, 0.61), (1, 2, 0.62), (16, 1, 0.71)):
        write(tmp_path / f"{shots}-{seed}", result(shots, seed, accuracy, accuracy + 0.05), dataset="digits")
    return collect.read_runs([tmp_path])


def test_cells_are_means_and_sample_deviations(entries):
    frames = tables.wide_frames(entries)
    modes = [f"accuracy, % ({mode})" for mode in ("mean", "sample", "marginal")]
    draws = [f"draws against their mean, nats{how}" for how in ("", ", calibrated")]
    assert list(frames) == [*modes, "NLL, nats", "ECE", "usable information, nats", *draws]
    spread = np.std([61, 62], ddof=1)
    assert list(frames[modes[0]].columns) == ["1", "16", "mean"]
    assert list(frames[modes[0]].loc["pini"]) == [f"61.5 ± {spread:.1f}", "71.0", "66.2"]
    assert list(frames[modes[2]].loc["pini"])[0].startswith("66.5")
    assert frames[modes[0]].loc["zero-shot", "1"] == "50.0 ± 0.0"
    assert frames["usable information, nats"].loc["pini", "16"] == "0.21"


def test_calibration_and_costs_have_tables_where_they_are_known(tmp_path):
    for seed in (1, 2):
        found = result(1, seed, 0.6, method="gda") | {"seconds": {"setup": 1.0, "train": seed}, "peak_bytes": 5e8}
        found["test"]["mean"]["calibrated_nll"] = 0.5
        write(tmp_path / str(seed), found)
    frames = tables.wide_frames(collect.read_runs([tmp_path]))
    assert frames["seconds"].loc["gda", "1"] == f"2.5 ± {np.std([2, 3], ddof=1):.1f}"
    assert frames["peak memory, MB"].loc["gda", "1"] == "500 ± 0"
    assert frames["NLL, nats, calibrated"].loc["gda", "mean"] == "0.500"
    assert "ECE, calibrated" not in frames


def test_what_is_not_there_is_a_dash(entries, tmp_path):
    write(tmp_path / "rival", result(16, 1, 0.5, method="gda"), dataset="digits")
    frame = tables.wide_frames(collect.read_runs([tmp_path]))["accuracy, % (mean)"]
    assert list(frame.loc["gda"]) == ["–", "50.0", "–"]


def test_one_table_where_nothing_is_drawn(tmp_path):
    write(tmp_path / "a", result(1, 1, 0.6, method="gda"))
    assert [name for name in tables.wide_frames(collect.read_runs([tmp_path])) if "accuracy" in name] == [
        "accuracy, %"
    ]


def test_the_summary_is_that_of_the_runs(entries):
    summary = tables.summary_frame(tables.runs_frame(entries)).set_index(["shots", "measure"])
    row = summary.loc[(1, "test.mean.accuracy")]
    assert (row["mean"], row["runs"]) == (pytest.approx(0.615), 2)
    assert row["std"] == pytest.approx(np.std([0.61, 0.62], ddof=1))
    assert np.isnan(summary.loc[(16, "test.mean.accuracy"), "std"])


def test_files_hold_what_the_frame_holds(entries, tmp_path):
    frame = tables.runs_frame(entries)
    tables.write_table(frame, tmp_path, "runs")
    read = pd.read_csv(tmp_path / "runs.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    columns = pyarrow.parquet.read_table(tmp_path / "runs.parquet").to_pydict()
    assert columns["test.mean.accuracy"] == frame["test.mean.accuracy"].tolist()
    assert columns["label"] == frame["label"].tolist()


def test_latex_is_escaped(entries, tmp_path):
    tables.write_table(tables.comparisons_frame({"a_b": outcomes.compare(entries)}), tmp_path, "comparisons")
    text = (tmp_path / "comparisons.tex").read_text()
    assert r"\begin{tabular}" in text and r"a\_b" in text and r"p\_holm" in text
