"""keras-hub on its JAX backend: its own reader where formats are tried, copied weights where it is timed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras  # noqa: E402, reads the variable set above
import keras_hub  # noqa: E402, as above
from safetensors.numpy import load_file  # noqa: E402, as above

from benchmarks.peers import worker  # noqa: E402, as above
from benchmarks.peers.worker import Towers  # noqa: E402, as above
from benchmarks.peers.workers.keras_weights import Tensors, copy  # noqa: E402, as above

HEAD = 64  # channels, in every model that is timed


def load(path: Path, kind: str) -> Towers:
    """A backbone of the sizes that the tensors have, and the tensors in it."""
    tensors = load_file(path / "model.safetensors")
    backbone = BUILD[kind](tensors)
    copy(backbone, tensors, kind)
    return towers(backbone)


def read(path: Path, kind: str) -> Towers:
    """By its own reader of transformers' folders."""
    classes = {"clip": keras_hub.models.CLIPBackbone, "siglip": keras_hub.models.SigLIPBackbone}
    return towers(classes[kind.rstrip("2")].from_preset(str(path)))


def towers(backbone: keras.Model) -> Towers:
    """Each as a model of its own, which Keras compiles."""
    pixels, ids = (next(x for x in backbone.inputs if x.name == name) for name in ("images", "token_ids"))
    images = keras.Model(pixels, backbone.get_vision_embeddings(pixels)).predict_on_batch
    texts = keras.Model(ids, backbone.get_text_embeddings(ids)).predict_on_batch
    return Towers(images, texts, lambda ids: texts(worker.longest(ids)))


# ------------------------------------------------------------------------------------------------ sizes


def _clip(tensors: Tensors) -> keras.Model:
    image, text = (_sizes(tensors, tower) for tower in ("vision", "text"))
    return keras_hub.models.CLIPBackbone(
        keras_hub.models.CLIPVisionEncoder(**image, **_image(tensors, extra=1)),
        keras_hub.models.CLIPTextEncoder(**text, **_text(tensors)),
        projection_dim=len(tensors["text_projection.weight"]),
    )


def _siglip(tensors: Tensors) -> keras.Model:
    image, text = (_sizes(tensors, tower) for tower in ("vision", "text"))
    return keras_hub.models.SigLIPBackbone(
        keras_hub.models.SigLIPVisionEncoder(**image, **_image(tensors, extra=0)),
        keras_hub.models.SigLIPTextEncoder(
            **text, **_text(tensors), projection_dim=len(tensors["text_model.head.bias"])
        ),
    )


BUILD = {"clip": _clip, "siglip": _siglip}


def _sizes(tensors: Tensors, tower: str) -> dict[str, int]:
    blocks = f"{tower}_model.encoder.layers"
    mlp, width = tensors[f"{blocks}.0.mlp.fc1.weight"].shape
    layers = sum(name.startswith(blocks) and name.endswith("mlp.fc1.weight") for name in tensors)
    return dict(hidden_dim=width, num_layers=layers, num_heads=width // HEAD, intermediate_dim=mlp)


def _image(tensors: Tensors, extra: int) -> dict[str, Any]:
    patch = tensors["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    grid = round((len(tensors["vision_model.embeddings.position_embedding.weight"]) - extra) ** 0.5)
    return dict(patch_size=patch, image_shape=(grid * patch, grid * patch, 3))


def _text(tensors: Tensors) -> dict[str, int]:
    tokens, width = tensors["text_model.embeddings.token_embedding.weight"].shape
    length = len(tensors["text_model.embeddings.position_embedding.weight"])
    return dict(vocabulary_size=tokens, embedding_dim=width, max_sequence_length=length)


if __name__ == "__main__":
    worker.main(load, read)
