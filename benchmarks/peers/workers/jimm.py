"""jimm, of the package jax-image-models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jimm import models

from benchmarks.peers import worker
from benchmarks.peers.worker import Towers

CLASSES = {"clip": models.CLIP, "siglip": models.SigLIP, "siglip2": models.SigLIP}


def load(path: Path, kind: str) -> Towers:
    """From files of PyTorch where there are no others."""
    pickled = (path / "pytorch_model.bin").exists()
    graph, state = nnx.split(CLASSES[kind].from_pretrained(str(path), use_pytorch=pickled))

    def compiled(method: str) -> Callable[[np.ndarray], np.ndarray]:
        encode = jax.jit(lambda state, x: getattr(nnx.merge(graph, state), method)(x))
        return lambda x: np.asarray(encode(state, x))

    texts = compiled("encode_text")
    return Towers(compiled("encode_image"), texts, lambda ids: texts(worker.longest(ids)))


if __name__ == "__main__":
    jax.set_mesh(Mesh(np.array(jax.devices())[:, None], ("data", "fsdp")))  # as its own tests do
    worker.main(load)
