"""Published figures beside our own: the whole command on a hub of this machine, with a tiny CLIP."""

import json

import local_hub
import numpy as np
import pytest
import tiny_clips
from huggingface_hub import constants
from PIL import Image
from test_protocols import folder as folder_of_images

from benchmarks import published
from pini_jax.clip import pretrained, zero_shot
from pini_jax.clip.prompts import build
from pini_jax.core.errors import InputError

ID = "owner/clip"
TEXTS = ("cat", "a tabby cat")
CONFIG = """
from pini_jax.config import default, with_method


def get_config():
    config = with_method(default(), "tip_adapter")
    config.template = "x the {}."
    return config
"""


@pytest.fixture
def clip(tmp_path):
    return tiny_clips.hugging_face_folder(tmp_path / "clip", layers=1, context_length=77)


@pytest.fixture
def hub(clip, tmp_path, monkeypatch):
    """A hub with this CLIP."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    files = {file.name: file.read_bytes() for file in clip.iterdir()}
    server = local_hub.LocalHub({ID: local_hub.Repository({"1" * 40: files}, {"main": "1" * 40})})
    with server.serving(monkeypatch):
        yield server


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def expected(clip, picture):
    """p of each text, with nothing of the benchmark."""
    loaded = pretrained.load_clip(str(clip))
    pixels = loaded.preprocessing.normalise(np.asarray(Image.open(picture))[None])
    image = loaded.image_tower.apply({"params": loaded.theta["image"]}, pixels)[0]
    texts = [build(loaded.tokenizer, "{}", [text], loaded.text_tower.sizes) for text in TEXTS]
    text = [zero_shot.encode_classes(loaded.text_tower, loaded.theta, one)[0, 0] for one in texts]
    cosines = [float(image @ t / np.linalg.norm(image) / np.linalg.norm(t)) for t in text]
    logits = np.exp(float(loaded.theta["logit_scale"])) * np.array(cosines)
    return np.exp(logits) / np.exp(logits).sum()


def test_probabilities_are_those_of_the_pieces(clip, picture):
    found = published.probabilities(str(clip), picture, TEXTS)
    np.testing.assert_allclose(found, expected(clip, picture), rtol=1e-4)
    assert abs(found[0] - 0.5) > 1e-3  # the texts differ


def test_a_picture_is_fetched_once(picture, tmp_path):
    folder = tmp_path / "pictures"
    kept = published.fetch(picture.as_uri(), folder)
    assert kept.read_bytes() == picture.read_bytes()
    picture.unlink()
    assert published.fetch(picture.as_uri(), folder) == kept
    with pytest.raises(InputError, match=r"other\.png cannot be fetched"):
        published.fetch((tmp_path / "other.png").as_uri(), folder)


def test_every_figure_has_a_source():
    for model in published.MODELS.values():
        assert set(model.published) == set(published.DATASETS)
        assert all(0 < accuracy < 1 for accuracy in model.published.values())
    for found in (*published.MODELS.values(), *published.EXAMPLES):
        assert found.source.startswith("https://")
    assert published.MODELS["openai"].published["dtd"] == 0.4495
    assert published.MODELS["siglip"].published["stanford_cars"] == 0.9081


def test_the_greatest_difference_is_shown():
    row = dict(what="x", clip="c", source="https://s", published=[0.9, 0.1], here=[0.91, 0.05], after=0.5)
    assert published.line(row) == ["x", "c", "90.00% 10.00%", "91.00% 5.00%", "-5.00%", "50.00%", "https://s"]
    assert published.line(row | dict(published=[]))[2:] == ["", "91.00% 5.00%", "", "50.00%", ""]
    assert published.line(dict(what="x", clip="c", source="s", refused="why"))[3] == "why"


@pytest.mark.long
def test_the_whole_command(hub, picture, tmp_path, monkeypatch, capsys):
    images = f"folder:{folder_of_images(tmp_path / 'images')}"
    (tmp_path / "own.py").write_text(CONFIG)
    example = published.Example("a picture", ID, picture.as_uri(), TEXTS, (0.25,), "https://example.org/readme")
    models = {"openai": published.Model(ID, {images: 0.5}, "https://example.org/csv")}
    monkeypatch.setattr(published, "EXAMPLES", (example, example._replace(clip="owner/nothing")))
    monkeypatch.setattr(published, "MODELS", models)
    monkeypatch.setattr(published, "RESULT", tmp_path / "published.json")
    words = [f"--config={tmp_path / 'own.py'}", "--shots=2", "--views=1", "--save", "--models", "openai"]
    words += ["--datasets", images, "dtd", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'runs'}"]
    published.main(words)
    *table, last = capsys.readouterr().out.splitlines()
    first, absent, trained, missing = json.loads(last)["rows"]
    assert first["here"][0] == pytest.approx(expected(tmp_path / "clip", picture)[0], rel=1e-4)
    assert "owner/nothing" in absent["refused"] and "dtd" in missing["refused"]
    result = json.loads(next((tmp_path / "runs").rglob("result.json")).read_text())
    assert trained["here"] == [result["zero_shot"]["accuracy"]]
    assert trained["after"] == result["test"]["mean"]["accuracy"] and trained["published"] == [0.5]
    assert len(table) == 6 and "https://example.org/csv" in table[4]
    assert {row["what"] for row in json.loads((tmp_path / "published.json").read_text())["rows"]} >= {
        images,
        "dtd",
    }
