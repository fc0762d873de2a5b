"""The frozen half of a run: what turns images and class names into what the noise is added to.

There are two: the towers of a CLIP, and a pack of features that was made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pini_jax import mesh as meshes
from pini_jax.clip import pretrained
from pini_jax.clip.towers import TextTower
from pini_jax.config import Config
from pini_jax.data import features, packs, pixels, prompts, templates
from pini_jax.data.records import Record
from pini_jax.errors import InputError
from pini_jax.noise.injector import Injector, Text

Records = Sequence[Record]


class Backbone(NamedTuple):
    """What is frozen.

    Attributes:
        theta: the parameters that a training step reads: of the text tower, if there is one, and of the logits.
        text_tower: None where text features are given.
        fingerprint: names all of it, the weights or the file.
        text: (template or name of templates, name of the dataset, class names) -> the classes' prompts, or their
            text features.
        encode: images -> features of their evaluation views.
        views: images -> [features of each cached training view].
        fresh: (images, view number, positions) -> features of these images' training views, made anew.
    """

    theta: dict
    text_tower: TextTower | None
    fingerprint: str
    text: Callable[[str, str, Sequence[str]], Text]
    encode: Callable[[Records], Float[np.ndarray, "b e"]]
    views: Callable[[Records], list[Float[np.ndarray, "b e"]]]
    fresh: Callable[[Records, int, Int[np.ndarray, "b"]], Float[Array, "b e"]]


def load(config: Config, mesh: jax.sharding.Mesh) -> Backbone:
    """The towers that `clip` names, or the pack that `dataset` does.

    Raises:
        InputError: it cannot be used.
    """
    if config.dataset.startswith("features:"):
        return _of_pack(config, mesh)
    dtype = pretrained.tower_dtype(config.dtype)
    return of_clip(pretrained.load(config.clip, config.tokenizer, dtype, config.image_size, mesh), config, mesh)


def of_clip(clip: pretrained.Pretrained, config: Config, mesh: jax.sharding.Mesh) -> Backbone:
    """The towers of a CLIP."""
    encoder = features.make_encoder(clip, mesh)
    theta = {key: part for key, part in clip.theta.items() if key != "image"}

    def text(template: str, dataset: str, class_names: Sequence[str]) -> Text:
        texts = templates.find(template, dataset)
        built = [prompts.build(clip.tokenizer, x, class_names, clip.text_tower.sizes) for x in texts]
        return built[0] if len(built) == 1 else _ensemble(clip.text_tower, theta, built)

    def views(records: Records) -> list[Float[np.ndarray, "b e"]]:
        if not config.views:
            features.refuse_unreadable(records)  # before the training begins
        return [
            features.features(records, clip, encoder, config.augment, config.seed, view)
            for view in range(config.views)
        ]

    def fresh(records: Records, view: int, images: Int[np.ndarray, "b"]) -> Float[Array, "b e"]:
        def read(i: int) -> Float[np.ndarray, "h w 3"]:
            augmented = pixels.view_pixels(records[i], clip.preprocessing, config.augment, config.seed, view, i)
            return clip.preprocessing.normalise(augmented)

        return encoder(*pixels.batches(read, images.tolist(), len(images)))

    def encode(records: Records) -> Float[np.ndarray, "b e"]:
        return features.features(records, clip, encoder)

    return Backbone(theta, clip.text_tower, clip.fingerprint, text, encode, views, fresh)


def _ensemble(tower: TextTower, theta: dict, built: Sequence[prompts.Prompts]) -> Float[Array, "1 c e"]:
    """mean_t T(prompt_t) / |T(prompt_t)|: the text features of several templates.

    Source: Radford et al. 2021, Section 3.1.4 (prompt ensembling).
    """

    plain = Injector(tower)

    @jax.jit
    def unit(theta: dict, one: prompts.Prompts) -> Float[Array, "1 c e"]:
        encoded = plain.text_features({}, theta, one)
        return encoded / jnp.linalg.norm(encoded, axis=-1, keepdims=True)

    return jnp.stack([unit(theta, one) for one in built]).mean(0)


def _of_pack(config: Config, mesh: jax.sharding.Mesh) -> Backbone:
    pack = packs.load(Path(config.data_dir).expanduser() / config.dataset.removeprefix("features:"))
    scale, text = meshes.replicate(mesh, (jnp.float32(np.log(pack.logit_scale)), pack.text[None]))
    labels = {name: label for label, name in enumerate(pack.findings.dataset.class_names)}

    def encode(records: Records) -> Float[np.ndarray, "b e"]:
        return np.stack([pack.images[record.id] for record in records])

    def fresh(*_) -> Float[Array, "b e"]:
        raise InputError("a feature pack has one view of every image")

    return Backbone(
        theta={"logit_scale": scale},
        text_tower=None,
        fingerprint=pack.sha256,
        text=lambda template, dataset, class_names: text[:, np.array([labels[name] for name in class_names])],
        encode=encode,
        views=lambda records: [encode(records)],
        fresh=fresh,
    )
