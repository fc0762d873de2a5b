"""Classifiers that are told no texts: what is printed is what test images say of them."""

import dataclasses

import numpy as np
import pytest
from test_packs import arrays

pytest.importorskip("sklearn", reason="the classifier is of the extra sklearn")

from benchmarks import textless
from pini_jax import Classifier
from pini_jax.data import selection
from pini_jax.data.datasets import packs
from pini_jax.evaluate import metrics


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "pack.npz", **arrays())
    return tmp_path / "pack.npz"


def test_it_is_what_a_user_gets_who_has_no_texts(path):
    pack = packs.load_pack(path)
    found = textless.measure(pack, "gda", 4, 1)
    data = pack.findings.accepted()
    train = selection.select_from_pack(data, 4, 1).train
    fitted = Classifier(method="gda").fit(*textless._arrays(pack, train))
    features, labels = textless._arrays(pack, data.test)
    calibrated = metrics.metrics(np.log(fitted.predict_proba(features)), labels)
    assert found.accuracy == calibrated.accuracy and found.calibrated_nll == pytest.approx(
        calibrated.nll, rel=1e-3
    )
    raw = dataclasses.replace(fitted.trained_, doubts={})(features)
    assert found.nll == pytest.approx(metrics.metrics(np.log(raw + 1e-30), labels).nll, rel=1e-3)


def test_a_line_for_every_method_and_number_of_shots(path, capsys):
    textless.compare(path, ["gda", "tip_adapter"], [1, 2], [1])
    lines = [line.split(" | ")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| pack")]
    assert lines == [["gda", "2"], ["tip_adapter", "1"], ["tip_adapter", "2"]]
