"""The notebook and the walk of examples/ that begin with a folder of photos run to their end."""

import subprocess
import sys

import pages
import pytest
from pages import ROOT

NOTEBOOK = ROOT / "examples" / "photos.ipynb"


@pytest.mark.long
def test_the_notebook_runs(environment, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient")
    nbformat = pytest.importorskip("nbformat")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": tmp_path}}).execute()
    (result,) = [cell for cell in notebook.cells if "plain CLIP" in cell.source]
    assert "with noise" in result.outputs[0].text


@pytest.mark.long
def test_the_walk_runs(environment, tmp_path):
    drawing = next(block for block in pages.blocks(ROOT / "docs" / "photos.md") if block.language == "python")
    subprocess.run([sys.executable, "-c", drawing.content], cwd=tmp_path, env=environment, check=True)
    quick = [
        "--config.optim.epochs=2",
        "--config.views=1",
        '--config.noise={"image_features": {"generator": "mlp"}}',
    ]
    done = subprocess.run(
        [ROOT / "examples" / "photos.sh", "photos", *quick],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "photos" / "report" / "report.md").exists()
    assert done.stdout.splitlines()[-1].startswith("photos/a/00.png\t")
