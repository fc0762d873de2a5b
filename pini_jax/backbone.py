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
        check: [images, ...] -> InputError for those whose evaluation views can be neither made nor remembered.
        encode: images -> features of their evaluation views.
        encode_text: what `text` gives -> text features.
        views: (config, images) -> [features of each cached training view].
        fresh: (config, images, view number, positions) -> features of these images' training views, made anew.
    """

    theta: dict
    text_tower: TextTower | None
    fingerprint: str
    text: Callable[[str, str, Sequence[str]], Text]
    check: Callable[[Sequence[Records]], None]
    encode: Callable[[Records], Float[np.ndarray, "b e"]]
    encode_text: Callable[[Text], Float[Array, "1 c e"]]
    views: Callable[[Config, Records], list[Float[np.ndarray, "b e"]]]
    fresh: Callable[[Config, Records, int, Int[np.ndarray, "b"]], Float[Array, "b e"]]


def load(config: Config, mesh: jax.sharding.Mesh) -> Backbone:
    """The towers that `clip` names, or the pack that `dataset` does.

    Raises:
        InputError: it cannot be used.
    """
    if config.dataset.startswith("features:"):
        return _of_pack(config, mesh)
    dtype = pretrained.tower_dtype(config.dtype)
    return of_clip(pretrained.load(config.clip, config.tokenizer, dtype, config.image_size, mesh), mesh)


def of_clip(clip: pretrained.Pretrained, mesh: jax.sharding.Mesh) -> Backbone:
    """The towers of a CLIP."""
    encoder = features.make_encoder(clip, mesh)
    theta = {key: part for key, part in clip.theta.items() if key != "image"}
    plain = jax.jit(Injector(clip.text_tower).text_features)

    def text(template: str, dataset: str, class_names: Sequence[str]) -> Text:
        texts = templates.find(template, dataset)
        sizes, shards = clip.text_tower.sizes, meshes.batch_shards(mesh)
        built = [prompts.build(clip.tokenizer, template, class_names, sizes) for template in texts]
        placed = [_place(mesh, prompts.lay_out(one, sizes, shards)) for one in built]
        return placed[0] if len(placed) == 1 else _ensemble([plain({}, theta, one) for one in placed])

    def views(config: Config, records: Records) -> list[Float[np.ndarray, "b e"]]:
        if not config.views:
            features.refuse_unreadable(records)  # before the training begins
        return [
            features.features(records, clip, encoder, config.augment, config.seed, view)
            for view in range(config.views)
        ]

    def fresh(config: Config, records: Records, view: int, images: Int[np.ndarray, "b"]) -> Float[Array, "b e"]:
        def read(i: int) -> Float[np.ndarray, "h w 3"]:
            augmented = pixels.view_pixels(records[i], clip.preprocessing, config.augment, config.seed, view, i)
            return clip.preprocessing.normalise(augmented)

        return encoder(*pixels.batches(read, images.tolist(), len(images)))

    def check(splits: Sequence[Records]) -> None:
        unknown = {record for records in splits if not features.cached(records, clip) for record in records}
        features.refuse_unreadable(sorted(unknown, key=lambda record: record.id))

    def encode(records: Records) -> Float[np.ndarray, "b e"]:
        return features.features(records, clip, encoder)

    def encode_text(text: Text) -> Float[Array, "1 c e"]:
        return plain({}, theta, text)

    return Backbone(theta, clip.text_tower, clip.fingerprint, text, check, encode, encode_text, views, fresh)


def _place(mesh: jax.sharding.Mesh, built: prompts.Prompts) -> prompts.Prompts:
    """Rows of suffixes split over the devices, the rest on each."""
    rows = {key: meshes.shard(mesh, getattr(built, key)) for key in ("suffix", "place", "owner")}
    return prompts.Prompts(**meshes.replicate(mesh, built._asdict()) | rows)


def _ensemble(texts: Sequence[Float[Array, "1 c e"]]) -> Float[Array, "1 c e"]:
    """mean_t T(prompt_t) / |T(prompt_t)|: the text features of several templates.

    Source: Radford et al. 2021, Section 3.1.4 (prompt ensembling).
    """
    return jnp.stack([x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in texts]).mean(0)


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
        check=lambda splits: None,
        encode=encode,
        encode_text=jnp.asarray,
        views=lambda config, records: [encode(records)],
        fresh=fresh,
    )
