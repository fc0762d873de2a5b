"""This library."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np

from benchmarks import inputs
from benchmarks.peers import worker
from benchmarks.peers.worker import Towers
from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.clip.checkpoints import hub
from pini_jax.core import mesh
from pini_jax.data import features


def load(path: Path, kind: str) -> Towers:
    """As a run loads and encodes; the models come without a tokenizer, so that it is the bundled one."""
    clip, devices = pretrained.load_clip(str(path), str(hub.BUNDLED)), mesh.make_mesh()
    sizes, theta = clip.text_tower.sizes, {key: part for key, part in clip.theta.items() if key != "image"}
    encode = features.make_encoder(clip, devices)
    shared = functools.partial(zero_shot.encode_classes, clip.text_tower)
    whole = jax.jit(lambda theta, ids, end: clip.text_tower.apply({"params": theta["text"]}, ids, end))

    def texts(ids: np.ndarray) -> np.ndarray:
        end = (ids != ids[:, -1:]).sum(1) if kind == "clip" else np.full(len(ids), ids.shape[1] - 1)
        return np.asarray(whole(theta, ids, end))

    def of_classes(ids: np.ndarray) -> np.ndarray:
        packed = prompts.lay_out(inputs.parted(ids), sizes, mesh.batch_shards(devices))
        return np.asarray(shared(theta, packed)[0])

    return Towers(lambda pixels: np.asarray(encode(pixels)), texts, of_classes)


if __name__ == "__main__":
    worker.main(load)
