"""The tables of docs/doubt.md: what is left out is not seen, and the tables say what runs have said."""

from pathlib import Path

import numpy as np
import pytest
from test_packs import arrays

from benchmarks import doubt
from pini_jax import config
from pini_jax.runs import experiment, folder

NAMES = [f"class {i}" for i in range(8)]


@pytest.fixture
def pack(tmp_path):
    np.savez(tmp_path / "pack.npz", **arrays(classes=8) | {"classnames": np.array(NAMES)})
    return tmp_path / "pack.npz"


def test_stages_share_no_class_that_is_reported(pack, tmp_path):
    """The default is chosen with held-out *training* classes."""
    found = {case.stage: case for case in doubt.cases([pack], tmp_path)}
    names = {
        (stage, kind): set(np.load(getattr(case, kind))["classnames"])
        for stage, case in found.items()
        for kind in ("known", "unknown")
    }
    assert names["report", "known"] == set(NAMES[:4]) and names["report", "unknown"] == set(NAMES[4:])
    assert names["choose", "known"] | names["choose", "unknown"] == names["report", "known"]
    assert not names["choose", "known"] & names["choose", "unknown"]
    whole, part = np.load(pack), np.load(found["report"].unknown)
    np.testing.assert_array_equal(part["test_x"], whole["test_x"][whole["test_y"] >= 4])
    assert set(part["test_y"]) == {0, 1, 2, 3}


def test_rejection_from_the_pack_to_the_table(pack, tmp_path, capsys):
    doubt.unknown([pack], tmp_path / "runs", ["gda"], [2], [1])
    printed = capsys.readouterr().out
    assert "\nchoose\n" in printed and "\nreport\n" in printed and "| mahalanobis |" in printed
    assert "agreement" not in printed, "gda draws nothing"


def test_tables_of_finished_runs(pack, tmp_path):
    settings = {"dataset": f"features:{pack}", "clip": "", "views": 1, "shots": 2, "method": "gda"}
    workdir = tmp_path / "runs" / "gda" / "one"
    experiment.train_and_evaluate(config.resolve(settings), workdir)
    result = folder.read_sealed(Path(workdir) / "result.json")
    groups = doubt.grouped([tmp_path / "runs"])
    titles, _, plain, row = (line.split(" | ") for line in doubt.calibration(groups).splitlines())
    assert titles[0] == "| pack" and plain[0] == "| zero-shot CLIP" and row[0] == "| gda"
    measured = result["test"]["mean"]
    assert row[1] == f"{measured['nll']:.2f} → {measured['calibrated_nll']:.2f}"
    assert f"{result['doubt']['modes']['mean']['sets']['lac']['coverage']:.3f}" in doubt.sets(groups)
    assert "| marginal | 1 |" in doubt.overall(groups)
