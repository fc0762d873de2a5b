"""pini predict: many images, from anything that holds them, into files."""

import dataclasses
import json
import os

import numpy as np
import pytest
from absl import flags
from PIL import Image

from pini_jax import predict
from pini_jax.core import stop
from pini_jax.core.errors import InputError, UsageError
from pini_jax.use import classifier, outputs


@pytest.fixture(scope="module")
def trained(fitted_run):
    return classifier.load_classifier(fitted_run)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Seventy pictures, more than a batch; the fourth cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(70):
        Image.new("L", (32, 32), 3 * i).save(folder / f"{i:02}.png")
    (folder / "03.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return folder


def command(fitted_run, *words):
    values = flags.FlagValues()
    predict.define_flags(values)
    _, *rest = values(["pini predict", f"--workdir={fitted_run}", *words])
    predict.main(values, rest)


def test_doubt_has_columns_where_images_were_held_out(fitted_run, trained, photos):
    (photos / "03.png").unlink()
    command(fitted_run, "photos", "--output=all.jsonl")
    unsure = trained.unsure(sorted(photos.iterdir()))
    assert [row["unsure"] for row in read("all.jsonl")] == unsure.tolist()
    assert all(row["class"] == row["plausible"][0] for row in read("all.jsonl"))
    assert outputs.columns_of(trained, "mean", 1).doubt
    assert not outputs.columns_of(dataclasses.replace(trained, doubts={}), "mean", 1).doubt


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def predicted(fitted_run, output, *words):
    with pytest.raises(InputError, match="1 of .* images: image photos/03.png cannot be read"):
        command(fitted_run, "photos", f"--output={output}", *words)
    return read(output)


def same(rows, others):
    """The same images and answers, but for rounding: in batches of other sizes other programs run."""
    for row, other in zip(rows, others, strict=True):
        assert row == other | {"probability": row["probability"]}
        assert row["error"] or row["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_a_row_for_every_image_in_order(fitted_run, trained, photos, capsys):
    rows = predicted(fitted_run, "all.jsonl", "--topk=0")
    assert [row["path"] for row in rows] == [f"photos/{i:02}.png" for i in range(70)]
    assert "cannot be read" in rows[3]["error"] and rows[3]["class"] is None
    readable = [row for row in rows if row["error"] is None]
    by_class = [dict(zip(row["classes"], row["probabilities"], strict=True)) for row in readable]
    found = np.array([[one[name] for name in trained.class_names] for one in by_class])
    np.testing.assert_allclose(found, trained([row["path"] for row in readable]), atol=1e-6)
    assert not list(photos.parent.glob("*.partial"))
    with pytest.raises(InputError):
        command(fitted_run, "photos")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[row["path"], row["class"]] for row in readable]


@pytest.mark.parametrize("after", (0, 1, 64, 69))
def test_stopped_and_started_again(fitted_run, photos, monkeypatch, after):
    whole = predicted(fitted_run, "whole.jsonl")
    written = iter(range(after))

    def stopping(self, row, write=predict.PartialFile.write):
        if next(written, None) is None:
            raise stop.Stopped
        write(self, row)

    with monkeypatch.context() as patch, pytest.raises(stop.Stopped):
        patch.setattr(predict.PartialFile, "write", stopping)
        command(fitted_run, "photos", "--output=parts.jsonl")
    assert not os.path.exists("parts.jsonl") and len(read("parts.jsonl.partial")) == 1 + after
    same(predicted(fitted_run, "parts.jsonl"), whole)


def test_what_is_only_printed_is_not_said_to_be_saved(fitted_run, photos, monkeypatch):
    monkeypatch.setattr(stop, "_answer", lambda: True)
    with pytest.raises(stop.Stopped, match="--output would let it go on"):
        command(fitted_run, "photos")


def test_shards_are_the_whole(fitted_run, photos):
    whole = predicted(fitted_run, "whole.jsonl", "--mode=sample")
    parts = []
    for i in (1, 2, 3):
        words = f"--output={i}.jsonl", f"--shard={i}/3", "--mode=sample"
        if i == 1:  # which has the fourth image
            predicted(fitted_run, *[words[0].removeprefix("--output="), *words[1:]])
        else:
            command(fitted_run, "photos", *words)
        parts += read(f"{i}.jsonl")
    same(sorted(parts, key=lambda row: row["path"]), whole)


def test_what_has_changed_is_not_gone_on_with(fitted_run, photos, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(stop.Stopped):
        patch.setattr(predict.outputs, "finish", lambda *_: (_ for _ in ()).throw(stop.Stopped()))
        command(fitted_run, "photos", "--output=a.jsonl")
    with pytest.raises(InputError, match="a.jsonl.partial is of another command .topk was 1.: remove it"):
        command(fitted_run, "photos", "--output=a.jsonl", "--topk=2")
    (photos / "00.png").unlink()
    with pytest.raises(InputError, match="the inputs have changed since a.jsonl.partial was begun"):
        command(fitted_run, "photos", "--output=a.jsonl")


@pytest.mark.parametrize("shard", ("0/2", "3/2", "1", "a/b", "1/0"))
def test_what_is_no_shard(shard):
    with pytest.raises(UsageError, match=f"--shard={shard} must be I/N"):
        predict.parse_shard(shard)


def test_a_wrong_name_of_the_output_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="must end in .txt, .csv, .jsonl, .parquet"):
        command(tmp_path / "nowhere", "photos", "--output=answers.doc")
