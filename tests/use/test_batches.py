"""A classifier of batches, alone and on a real local Ray."""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from pini_jax import BatchClassifier, InputError, load_classifier
from pini_jax.data.datasets import digits

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def images():
    return [record.source for record in digits.load_digits().test[:12]]


def column(values):
    made = np.empty(len(values), object)
    made[:] = values
    return made


def test_columns_are_added_to_a_batch(fitted_run, images, tmp_path):
    classify, trained = BatchClassifier(fitted_run, topk=2), load_classifier(fitted_run)
    probabilities = trained(images)
    batch = {"id": np.arange(13), "image": column([*images, b"no picture"])}
    found = classify(batch)
    added = ["class", "probability", "classes", "probabilities", "unsure", "plausible", "error"]
    assert [*found] == ["id", "image", *added]
    assert found["unsure"].tolist() == [*trained.unsure(images), False]
    assert found["plausible"][-1] == [] and found["class"][0] in found["plausible"][0]
    assert found["class"].tolist() == [*(trained.class_names[i] for i in probabilities.argmax(-1)), ""]
    np.testing.assert_allclose(found["probability"][:-1], probabilities.max(-1), atol=1e-6)
    assert np.isnan(found["probability"][-1]) and "cannot be read" in found["error"][-1]
    assert found["error"].tolist()[:-1] == [""] * 12 and len(found["classes"][0]) == 2
    (tmp_path / "one.png").write_bytes(images[0])
    by_path = classify({"path": np.array([str(tmp_path / "one.png")])})
    assert by_path["class"][0] == found["class"][0]
    nested = classify({"image": column([{"bytes": images[0], "path": None}])})
    assert nested["class"][0] == found["class"][0]
    with pytest.raises(InputError, match="neither images' bytes nor paths; its columns: id"):
        classify({"id": np.arange(3)})


def test_data_frames_too(fitted_run, images):
    pandas = pytest.importorskip("pandas", reason="data frames are of pandas")
    frame = pandas.DataFrame({"image": images}, index=range(5, 17))
    found = BatchClassifier(fitted_run)(frame)
    assert [*found.columns] == ["image", "class", "probability", "unsure", "plausible", "error"]
    assert found.index[0] == 5 and found["unsure"].dtype == bool
    assert found["probability"].between(0, 1).all()


@pytest.mark.long
def test_every_row_once_on_ray_though_a_worker_is_killed(fitted_run, images, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the engine is no dependency")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    table = arrow.table({"id": [*range(240)], "image": images * 20})
    parquet.write_table(table, tmp_path / "images.parquet")
    killed = str(tmp_path / "killed")

    class KilledOnce(BatchClassifier):
        def __call__(self, batch):
            if not os.path.exists(killed):
                Path(killed).touch()
                os._exit(1)
            return super().__call__(batch)

    example = runpy.run_path(str(ROOT / "examples" / "ray_predict.py"))["main"]
    monkeypatch.setitem(example.__globals__, "BatchClassifier", KilledOnce)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        example(str(fitted_run), str(tmp_path / "images.parquet"), str(tmp_path / "answers"), workers=1)
    finally:
        ray.shutdown()
    found = parquet.read_table(tmp_path / "answers").to_pydict()
    assert os.path.exists(killed) and sorted(found["id"]) == [*range(240)]
    trained = load_classifier(fitted_run)
    wanted = trained(images).argmax(-1)
    by_id = dict(zip(found["id"], found["class"], strict=True))
    assert [by_id[i] for i in range(240)] == [trained.class_names[wanted[i % 12]] for i in range(240)]
