"""The same features as open_clip, from its hub folders: recordings made with it."""

from pathlib import Path

import numpy as np
import pytest
from tiny_clips import run_stage as stage

from pini_jax.clip import pretrained
from pini_jax.clip.checkpoints import open_clip

RECORDINGS = sorted((Path(__file__).parent.parent.parent / "recordings").glob("open_clip_*"))


def test_there_are_recordings():
    assert [folder.name.removeprefix("open_clip_") for folder in RECORDINGS] == [
        "average",
        "quick_gelu",
        "siglip",
        "vit",
    ]


@pytest.mark.parametrize("folder", RECORDINGS, ids=lambda folder: folder.name)
def test_recordings(folder, monkeypatch):
    # timm knows no trunk of two layers.
    trunk = open_clip.Trunk(width=24, layers=2, heads=2, mlp_width=36, activation="gelu")
    monkeypatch.setitem(open_clip.TRUNKS, "vit_tiny_patch4_siglip", trunk)
    with np.load(folder / "features.npz") as file:
        recorded = dict(file)
    clip = pretrained.load_clip(str(folder))
    images = stage(clip.image_tower, "__call__", clip.theta["image"], recorded["pixels"])
    texts = stage(clip.text_tower, "__call__", clip.theta["text"], recorded["ids"], recorded["end"])
    for name, ours in (("images", images), ("texts", texts)):
        error = np.abs(ours - recorded[name]).max() / np.abs(recorded[name]).max()
        assert error <= 1e-5, f"{name}: relative error {error:.1e}"
    assert ("logit_bias" in clip.theta) == (folder.name == "open_clip_siglip")
    assert (clip.preprocessing.squash, clip.preprocessing.crop) == (True, 12)
    assert clip.preprocessing.std == (0.25, 0.25, 0.25)
