"""Files of answers."""

import csv
import json

import emulators
import numpy as np
import pytest

from pini_jax.core.bucket import Bucket, open_bucket
from pini_jax.core.errors import InputError
from pini_jax.use import outputs
from pini_jax.use.classifier import Answer
from pini_jax.use.outputs import Columns, PartialFile

NAMES = ("cat", "dog", "naïve 猫")
ANSWERS = {
    "a.png": Answer(np.array([0.25, 0.5, 0.25], np.float32), np.array([True, True, False]), True),
    'b, "c".png': InputError('image b, "c".png cannot be read'),
    "\udcff.png": Answer(np.array([0.1, 0.2, 0.7], np.float32), np.array([False, False, True]), False),
}
OWNER = {"run": "ab", "topk": 1}


def rows(topk=1, doubt=False):
    columns = Columns(NAMES, topk, doubt)
    return [outputs.make_row(path, answer, columns) for path, answer in ANSWERS.items()]


def write(path, topk=1, doubt=False, found=None):
    with PartialFile(path, OWNER) as partial:
        for row in rows(topk, doubt) if found is None else found:
            partial.write(row)
        outputs.finish(partial, path, Columns(NAMES, topk, doubt))
    assert list(path.parent.iterdir()) == [path]


def read(path):
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(text.splitlines()))


def test_a_row():
    first, second, third = rows(topk=0)
    assert first == {
        "path": "a.png",
        "class": "dog",
        "probability": 0.5,
        "classes": ["dog", "cat", "naïve 猫"],
        "probabilities": [0.5, 0.25, 0.25],
        "error": None,
    }
    assert second["error"] == 'image b, "c".png cannot be read' and second["class"] is None
    assert third["path"] == "\\udcff.png" and third["probability"] == 0.7
    assert [row.keys() for row in rows(1)] == [{"path", "class", "probability", "error"}] * 3
    assert rows(2)[0]["classes"] == ["dog", "cat"]


def test_a_row_with_doubt():
    first, second, third = rows(doubt=True)
    assert [*first] == ["path", "class", "probability", "unsure", "plausible", "error"]
    assert first["unsure"] is True and first["plausible"] == ["dog", "cat"]
    assert second["unsure"] is None and second["plausible"] == []
    assert third["unsure"] is False and third["plausible"] == ["naïve 猫"]


@pytest.mark.parametrize("doubt", (False, True))
@pytest.mark.parametrize("topk", (0, 1, 2))
@pytest.mark.parametrize("kind", ("jsonl", "parquet"))
def test_a_file_holds_the_rows(tmp_path, kind, topk, doubt):
    path = tmp_path / f"answers.{kind}"
    write(path, topk, doubt)
    for found, row in zip(read(path), rows(topk, doubt), strict=True):
        assert found.keys() == row.keys()
        assert {k: v for k, v in found.items() if "prob" not in k} == {
            k: v for k, v in row.items() if "prob" not in k
        }
        for key in ("probability", "probabilities"):
            if row.get(key):
                np.testing.assert_array_equal(np.float32(found[key]), np.float32(row[key]))


def test_a_class_name_stays_on_its_line():
    """Whoever made the injector chose it."""
    answer = Answer(np.array([0.25, 0.75]), np.array([False, True]), False)
    row = outputs.make_row("a.png", answer, Columns(("cat", "dog\x1b[2J\n\tthe")))
    assert outputs.line(row) == "a.png\tdog [2J the\t75.0%"


def test_csv_and_lines(tmp_path):
    write(tmp_path / "answers.csv", topk=2, doubt=True)
    first, second, third = read(tmp_path / "answers.csv")
    assert first["classes"] == "dog;cat" and first["probabilities"] == "0.5;0.25" and first["error"] == ""
    assert second["path"] == 'b, "c".png' and second["error"].endswith("cannot be read") and second["class"] == ""
    assert [row["unsure"] for row in (first, second, third)] == ["True", "", "False"]
    assert [row["plausible"] for row in (first, second, third)] == ["dog;cat", "", "naïve 猫"]
    (tmp_path / "answers.csv").unlink()
    write(tmp_path / "answers.txt")
    assert (tmp_path / "answers.txt").read_text("utf-8") == "a.png\tdog\t50.0%\n\\udcff.png\tnaïve 猫\t70.0%\n"


@pytest.mark.parametrize("kind", ("txt", "csv", "jsonl", "parquet"))
def test_no_images_make_a_file_without_rows(tmp_path, kind):
    write(tmp_path / f"answers.{kind}", topk=2, doubt=True, found=[])
    if kind != "txt":
        assert read(tmp_path / f"answers.{kind}") == []
    if kind == "csv":
        header = (tmp_path / "answers.csv").read_text().strip()
        assert header == "path,class,probability,classes,probabilities,unsure,plausible,error"


def test_what_was_stopped_is_gone_on_with(tmp_path):
    path = tmp_path / "answers.jsonl"
    with PartialFile(path, OWNER) as partial:
        partial.write(rows()[0])
    with open(partial.path, "a") as file:
        file.write('{"path": "cut o')
    with PartialFile(path, OWNER) as partial:
        assert list(partial.rows()) == rows()[:1]
        partial.write(rows()[1])
        assert list(partial.rows()) == rows()[:2]
    with pytest.raises(InputError, match="is of another command .topk was 1.: remove it"):
        PartialFile(path, OWNER | {"topk": 3})
    partial.path.write_text("{\n")
    with pytest.raises(InputError, match="it is damaged"):
        PartialFile(path, OWNER)
    partial.path.write_text('{"ru')  # stopped before its first line was whole
    with PartialFile(path, OWNER) as partial:
        assert list(partial.rows()) == []


def test_the_ending_says_what_is_written(tmp_path):
    with pytest.raises(InputError, match="must end in .txt, .csv, .jsonl, .parquet"):
        outputs.writer_of(tmp_path / "answers.xlsx")


def test_an_output_in_a_bucket_is_put_when_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with emulators.bucket("memory") as bucket:
        url, place = f"{bucket}/answers/all.jsonl", open_bucket(f"{bucket}/answers")
        with pytest.raises(KeyError), outputs.placed(url) as path, PartialFile(path, OWNER) as partial:
            partial.write({"path": "a"})
            raise KeyError
        assert place.read("all.jsonl") is None
        with outputs.placed(url) as path, PartialFile(path, OWNER) as partial:
            assert list(partial.rows()) == [{"path": "a"}]
            outputs.finish(partial, path, Columns(NAMES))
        assert json.loads(place.read("all.jsonl")) == {"path": "a"} and not path.exists()


def test_an_output_that_cannot_be_put_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def refuse(*_):
        raise PermissionError("access is refused")

    monkeypatch.setattr(Bucket, "put", refuse)
    with (
        pytest.raises(OSError, match="refused; what was to be put is .*all.txt"),
        emulators.bucket("memory") as url,
        outputs.placed(f"{url}/all.txt") as path,
    ):
        path.write_text("answers")
    assert path.read_text() == "answers"
