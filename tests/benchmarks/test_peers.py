"""Other libraries beside this one: environments, what their processes say, and the rows that are made of it."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from test_packs import arrays

from benchmarks import inputs, random_clip, timing
from benchmarks.peers import __main__ as peers
from benchmarks.peers import classifiers, environments, models, towers, worker
from benchmarks.peers.classifiers import Contender, Job, Outcome
from benchmarks.peers.environments import Environment
from benchmarks.peers.workers import pini_jax as ours
from benchmarks.timing import Cost, Times
from pini_jax.clip.architecture import Architecture, Image, TextSizes, Transformer
from pini_jax.data.datasets import packs

TINY = Architecture(
    Image(12, 4, Transformer(32, 2, 2, 96)), TextSizes(700, 77, Transformer(16, 2, 2, 48, causal=True)), 24
)
HERE = Environment(sys.executable, 12.0, {})


# ------------------------------------------------------------------------------------------------ environments


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A place of packages with one of 100,000 bytes, instead of the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_peer-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_peer.py", "#" * 100_000)
        about = "tiny_peer-1.2.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny_peer\nVersion: 1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_peer_is_installed_once(index, tmp_path, monkeypatch):
    monkeypatch.setitem(environments.PEERS, "tiny", ("tiny-peer>=1",))
    made = environments.make("tiny", tmp_path)
    assert made.versions == {"tiny_peer": "1.2"}
    assert 0.1 < made.megabytes < 1
    subprocess.run([made.python, "-c", "import tiny_peer"], check=True)
    monkeypatch.setattr(environments, "_install", None)  # which cannot be called
    assert environments.make("tiny", tmp_path) == made


def test_a_peer_that_cannot_be_installed_is_no_failure(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(environments.PEERS, "jimm", ("tiny-peer>=2",))
    monkeypatch.setitem(peers.PARTS, "towers", peers.PARTS["towers"]._replace(libraries=("jimm",)))
    assert peers.install(["towers"], tmp_path / "cache") == {}
    assert "jimm cannot be installed here: pip: ERROR: " in capsys.readouterr().out
    assert not list((tmp_path / "cache").iterdir())


def test_of_this_library_all_that_it_needs_is_installed():
    assert any(package.startswith("jax>=") for package in environments.packages("pini_jax"))


# ------------------------------------------------------------------------------------------------ processes


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A CLIP and its inputs, as the command lays them out."""
    folder = tmp_path_factory.mktemp("timed")
    (folder / "clip").mkdir()
    random_clip.write(folder / "clip", TINY)
    ids = inputs.whole(inputs.make_texts(TINY.text.vocab_size, 5), TINY.text.context_length).ids
    np.savez(folder / "clip.npz", pixels=inputs.make_pixels(12, 3), ids=ids)
    return folder


def test_prompts_part_where_they_differ():
    made = inputs.make_texts(700, 9)
    found = inputs.parted(inputs.whole(made, 77).ids)
    length = found.suffix.shape[1]
    np.testing.assert_array_equal(found.start, made.start)
    np.testing.assert_array_equal(found.prefix, made.prefix)
    np.testing.assert_array_equal(found.suffix, made.suffix[:, :length])
    np.testing.assert_array_equal(found.end % length, made.end % made.suffix.shape[1])


def test_the_longest_ends_with_its_end_token():
    cut = worker.longest(np.array([[5, 1, 9, 9, 9], [5, 1, 2, 9, 9]]))
    np.testing.assert_array_equal(cut, [[5, 1, 9, 9], [5, 1, 2, 9]])


def test_a_worker_says_what_it_took_and_keeps_what_it_computed(timed, tmp_path):
    words = towers.module("pini_jax"), "measure", str(timed), "clip", str(tmp_path / "features.npz")
    with timing.Worker(*words) as process:
        assert set(process.said["seconds"]) == {"load", "images", "texts", "prompts"}
        assert process.seconds("prompts") > 0
    found = np.load(tmp_path / "features.npz")
    assert found["images"].shape == (3, 24)
    np.testing.assert_allclose(found["prompts"], found["texts"], rtol=1e-4, atol=1e-4)
    assert np.abs(found["texts"] - found["texts"][0]).max() > 0.1  # texts differ


def test_what_a_library_refuses_is_said(timed, tmp_path, monkeypatch):
    said = {}
    monkeypatch.setattr(timing, "serve", lambda works, **words: said.update(words))

    def no_longer(path, kind):
        raise ValueError("\n this is no CLIP\nof mine")

    worker.measure(no_longer, timed, "clip", tmp_path / "a.npz")
    assert said == {"refused": "ValueError: this is no CLIP"}

    def load(path, kind):
        return ours.load(path, kind)._replace(prompts=lambda ids: no_longer(path, kind))

    worker.measure(load, timed, "clip", tmp_path / "a.npz")
    assert said["refusals"] == {"prompts": "ValueError: this is no CLIP"}
    assert set(said["seconds"]) == {"load", "images", "texts"}


def test_a_format_is_read_if_its_features_are_right(timed, tmp_path):
    place = tmp_path / "CLIP"
    place.mkdir()
    random_clip.write(place, TINY)
    given, right = np.load(timed / "clip.npz"), ours.load(place, "clip")
    expected = dict(images=right.images(given["pixels"]), texts=right.texts(given["ids"]))
    np.savez(place / "expected.npz", kind="clip", **given, **expected)
    assert worker.attempt(ours.load, place) == {"error": 0.0}
    np.savez(place / "expected.npz", kind="clip", **given, **expected | dict(texts=2 * expected["texts"]))
    assert worker.attempt(ours.load, place) == {"error": pytest.approx(0.5)}
    (place / "config.json").unlink()
    assert worker.attempt(ours.load, place) == {
        "refused": "InputError: CLIP is no Hugging Face CLIP: config.json is missing"
    }


# ------------------------------------------------------------------------------------------------ towers


def test_errors_are_relative_and_the_greater_of_two_ways():
    expected = dict(images=np.array([[1.0, -4.0]]), texts=np.array([[2.0, 0.0]]))
    found = dict(images=np.array([[1.0, -3.0]]), texts=np.array([[2.0, 0.0]]), prompts=np.array([[2.0, 0.5]]))
    assert towers.errors(found, expected) == dict(images=0.25, texts=0.25)
    assert towers.errors(dict(images=found["images"]), expected) == dict(images=0.25)


def test_rates_are_per_second_and_compiling_is_what_first_calls_take_beyond():
    made = towers.summary(
        dict(load=3.0, images=5.0, texts=2.0),
        dict(images=Times(2, 1, 4), texts=Times(4, 4, 4)),
        towers.Batch(8, 16),
    )
    assert made["per_second"]["images"] == dict(median=4, lowest=2, highest=8)
    assert made["per_second"]["texts"]["median"] == 4
    assert (made["load_seconds"], made["compile_seconds"]) == (3.0, 3.0)
    row = dict(model="clip", library="x", errors=dict(images=1e-6), refusals=dict(prompts="no"), peak_mb=1234.5)
    assert towers.line(row | made) == [
        *("clip", "x", "1e-06", "", "4.0 (2.0-8.0)", "no", "4.0 (4.0-4.0)", "3.0", "3.0", "1,234")
    ]
    assert len(towers.line(row | made)) == len(towers.COLUMNS)
    assert towers.line(dict(model="clip", library="x", refused="why"))[:3] == ["clip", "x", "why"]


def test_a_refused_format_is_explained_once():
    rows = [
        dict(format="a", libraries=dict(x=dict(error=1e-7), y=dict(refused="no"))),
        dict(format="b", libraries=dict(x=dict(error=0.5), y=dict(refused="no"))),
    ]
    assert towers.format_table(rows).splitlines() == [
        "| format | x | y |",
        "| --- | ---: | ---: |",
        "| a | read, 1e-07 | refused (1) |",
        "| b | **wrong**, 5e-01 | refused (1) |",
        "",
        "1. no",
    ]


# ------------------------------------------------------------------------------------------------ the job


@pytest.fixture
def pack(tmp_path):
    np.savez(tmp_path / "pack.npz", **arrays())
    return tmp_path / "pack.npz"


def test_the_drawn_images_are_all_that_there_is_to_train_on(pack, tmp_path):
    drawn = packs.load_pack(classifiers.draw(pack, 2, 1, tmp_path / "drawn.npz"))
    whole = packs.load_pack(pack)
    data, all_of_it = drawn.findings.accepted(), whole.findings.accepted()
    assert np.bincount([record.label for record in data.train]).tolist() == [2] * len(data.class_names)
    assert not data.val and len(data.test) == len(all_of_it.test)
    there = np.stack([whole.images[record.id] for record in all_of_it.train])
    for record in data.train:
        assert np.abs(there - drawn.images[record.id]).max(1).min() < 1e-6


def test_another_classifies_the_test_images(pack, tmp_path):
    pytest.importorskip("sklearn")
    drawn = classifiers.draw(pack, 2, 1, tmp_path / "drawn.npz")
    found = classifiers.attempt(Contender("scikit_learn"), sys.executable, Job(drawn, 2, 1, tmp_path))
    assert 0 < found.accuracy <= 1 and found.nll > 0 and found.cost.wall > 0


def test_one_image_cannot_be_split(pack, tmp_path):
    pytest.importorskip("sklearn")
    drawn = classifiers.draw(pack, 1, 1, tmp_path / "drawn.npz")
    found = classifiers.attempt(Contender("scikit_learn"), sys.executable, Job(drawn, 1, 1, tmp_path))
    assert isinstance(found, str) and "'cv'" in found


def test_what_fails_says_why(pack, tmp_path, monkeypatch):
    monkeypatch.setitem(classifiers.CONTENDERS, "other", Contender("nobody"))
    found = classifiers.attempt(Contender("nobody"), sys.executable, Job(pack, 1, 1, tmp_path))
    assert "No module named benchmarks.peers.workers.nobody" in found
    assert classifiers.summary([found, Outcome(0.5, 1.0, Cost(1, 2))]) == dict(refused=found)
    row = dict(data="pack", shots=1, contender="x", megabytes=3.0, refused=found)
    assert len(classifiers.line(row)) == len(classifiers.COLUMNS)


def test_a_row_is_of_all_seeds():
    outcomes = [Outcome(0.5, 1.0, Cost(1, 2)), Outcome(0.7, 2.0, Cost(2, 4)), Outcome(0.6, 3.0, Cost(9, 9))]
    made = classifiers.summary(outcomes)
    assert made == dict(accuracy=pytest.approx(0.6), nll=2.0, wall=2, cpu=4)
    row = dict(data="pack", shots=1, contender="x", megabytes=3.0) | made
    assert classifiers.line(row) == ["pack", "1", "x", "60.0%", "2.000", "2.0", "4.0", "3"]


@pytest.mark.long
def test_our_contenders_do_the_job(pack, tmp_path):
    rows = classifiers.measure({"pini_jax": HERE}, pack, tmp_path, [2], [1, 2])
    assert [row["contender"] for row in rows] == ["`pini`", "`configs/best.py`", "`linear_probe`"]
    assert all(0 < row["accuracy"] <= 1 and row["wall"] > 0 for row in rows), rows


# ------------------------------------------------------------------------------------------------ with PyTorch


@pytest.mark.long
def test_towers_beside_transformers(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    small = {"clip": models.FORMATS["CLIP, safetensors"].config, "siglip": models.FORMATS["SigLIP"].config}
    pythons = dict.fromkeys(("pini_jax", "transformers"), sys.executable)
    rows = towers.measure(pythons, tmp_path, 1, small, towers.Batch(2, 3))
    assert [(row["model"], row["library"]) for row in rows] == [(x, y) for x in small for y in pythons]
    assert all(max(row["errors"].values()) < 1e-5 for row in rows), rows
    assert [len(towers.line(row)) for row in rows] == [len(towers.COLUMNS)] * 4


@pytest.mark.long
def test_all_formats_are_read_here(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    rows = towers.read_formats(dict.fromkeys(("pini_jax", "transformers"), sys.executable), tmp_path)
    assert [row["format"] for row in rows] == list(models.FORMATS)
    assert all(row["libraries"]["pini_jax"]["error"] < 1e-5 for row in rows), rows
    theirs = {row["format"]: row["libraries"]["transformers"] for row in rows}
    assert theirs["CLIP, safetensors in shards"] == {"error": 0.0}
    assert "refused" in theirs["CLIP, OpenAI's TorchScript"]


@pytest.mark.long
def test_the_whole_command(tmp_path, monkeypatch, capsys):
    """With the libraries of this environment in the place of all others."""
    pytest.importorskip("sklearn")
    monkeypatch.setattr(environments, "make", lambda name, cache: HERE)
    monkeypatch.setitem(peers.PARTS, "job", peers.PARTS["job"]._replace(libraries=("pini_jax", "scikit_learn")))
    monkeypatch.setattr(peers, "RESULT", tmp_path / "peers.json")
    peers.main(["--parts", "job", "--shots", "1", "--seeds", "1", "--cache", str(tmp_path / "envs"), "--save"])
    found = json.loads((tmp_path / "peers.json").read_text())
    names = {row["name"] for row in found["rows"] if row["part"] == "job"}
    assert names == {f"digits 1 {name}" for name in list(classifiers.CONTENDERS)[:4]}
    assert "LogisticRegressionCV" in capsys.readouterr().out
