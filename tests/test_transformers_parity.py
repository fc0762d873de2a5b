"""The same features and logits as Hugging Face transformers: live, and from recordings made with it."""

from pathlib import Path

import numpy as np
import pytest
import tiny_clips
from tiny_clips import run_stage as stage

from pini_jax.clip import pretrained
from pini_jax.noise.injector import cosine_logits

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("transformers_*"))
TOLERANCE = 1e-5


def assert_same(folder, recorded):
    clip = pretrained.load(str(folder))
    pixels = recorded["pixels"].transpose(0, 2, 3, 1)
    images = stage(clip.image_tower, "__call__", clip.theta["image"], pixels)
    text = stage(clip.text_tower, "__call__", clip.theta["text"], recorded["ids"], recorded["end"])
    logits = cosine_logits(clip.theta["logit_scale"], images[None, None], text[None])[0, 0]
    for name, ours in (("image_features", images), ("text_features", text), ("logits", logits)):
        error = np.abs(ours - recorded[name]).max() / np.abs(recorded[name]).max()
        assert error <= TOLERANCE, f"{name}: relative error {error:.1e}"


def test_there_are_recordings():
    assert [folder.name for folder in RECORDINGS] == ["transformers_gelu", "transformers_quick_gelu"]
    assert sum(file.stat().st_size for folder in RECORDINGS for file in folder.iterdir()) < 300_000


@pytest.mark.parametrize("folder", RECORDINGS, ids=lambda folder: folder.name)
def test_recordings(folder):
    with np.load(folder / "features.npz") as recorded:
        assert_same(folder, dict(recorded))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_live(tmp_path, activation):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import record_transformers

    model = record_transformers.random_model(activation, seed=7)
    model.save_pretrained(tmp_path)
    tiny_clips.tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert_same(tmp_path, record_transformers.record(model, seed=7))
