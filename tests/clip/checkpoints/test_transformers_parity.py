"""The same features and logits as Hugging Face transformers: live, and from recordings made with it."""

from pathlib import Path

import numpy as np
import pytest
import tiny_clips
from tiny_clips import run_stage as stage

from pini_jax.clip import pretrained
from pini_jax.clip.zero_shot import cosine_logits

RECORDINGS = sorted((Path(__file__).parent.parent.parent / "recordings").glob("transformers_*"))
KINDS = ("quick_gelu", "gelu", "siglip", "siglip2")
TOLERANCE = 1e-5


def assert_close(ours, theirs, name):
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= TOLERANCE, f"{name}: relative error {error:.1e}"


def assert_same(folder, recorded):
    clip = pretrained.load_clip(str(folder))
    images = stage(clip.image_tower, "__call__", clip.theta["image"], recorded["pixels"])
    texts = stage(clip.text_tower, "__call__", clip.theta["text"], recorded["ids"], recorded["end"])
    logits = cosine_logits(clip.theta, images[None, None], texts[None])[0, 0]
    for name, ours in (("images", images), ("texts", texts), ("logits", logits)):
        assert_close(ours, recorded[name], name)


def assert_same_at(folder, recorded, side):
    """With interpolated positions."""
    clip = pretrained.load_clip(str(folder), image_size=side)
    assert clip.preprocessing.crop == clip.image_tower.sizes.image_size == side
    images = stage(clip.image_tower, "__call__", clip.theta["image"], recorded[f"pixels_{side}"])
    assert_close(images, recorded[f"images_{side}"], f"images of {side} pixels")


def test_there_are_recordings():
    assert {folder.name for folder in RECORDINGS} == {f"transformers_{kind}" for kind in KINDS}
    assert sum(file.stat().st_size for folder in RECORDINGS for file in folder.iterdir()) < 600_000


@pytest.mark.parametrize("folder", RECORDINGS, ids=lambda folder: folder.name)
def test_recordings(folder):
    with np.load(folder / "features.npz") as file:
        recorded = dict(file)
    assert_same(folder, recorded)
    for side in (8, 20):
        assert_same_at(folder, recorded, side)


@pytest.mark.parametrize("kind", ["quick_gelu", "siglip2"])
def test_live(tmp_path, kind):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import record_transformers

    model, recorded = record_transformers.record(kind, seed=7)
    model.save_pretrained(tmp_path)
    tiny_clips.tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert_same(tmp_path, recorded)
    assert_same_at(tmp_path, recorded, 20)
