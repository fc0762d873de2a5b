"""The forms that are measured answer alike, and every one of them has a row."""

import numpy as np
import pytest

from benchmarks import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("jax2onnx", reason="the converter is of the extra export")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is of the extra export")
    made = tmp_path_factory.mktemp("files")
    export.write(made, "tiny_clip")
    return made


def test_programs_answer_as_the_run(folder):
    expected, *found = (export.FORMS[form](folder / form) for form in ("predict", "stablehlo", "onnx"))
    for answer in found:
        np.testing.assert_allclose(answer(2), expected(2), atol=1e-4)
    assert np.ptp(expected(1)) > 1e-3


def test_embeddings_answer_for_features(folder):
    answer = export.embeddings(folder / "embeddings")(3)
    assert answer.shape == (3, 10) and np.ptp(answer) > 1e-3
    np.testing.assert_allclose(answer.sum(-1), 1, rtol=1e-5)


def test_a_process_of_its_own_is_timed(folder):
    (row,) = export.measure(folder, ["embeddings"], processes=1, repeats=1)
    assert row["bytes"] == (folder / "embeddings").stat().st_size
    assert row["first"]["median"] > max(row[str(number)]["median"] for number in export.BATCHES) > 0
    assert len(export.line(row | {"clip": "tiny_clip"})) == len(export.COLUMNS)
