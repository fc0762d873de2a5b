"""The frozen half of a run: what turns images and class names into what the noise is added to.

There are two: the towers of a CLIP, and a pack of features that was made elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.clip.towers import TextTower
from pini_jax.config import Config
from pini_jax.core import mesh as meshes
from pini_jax.core.errors import InputError
from pini_jax.data import features, templates
from pini_jax.data import views as pixels
from pini_jax.data.datasets import packs
from pini_jax.data.datasets.records import Record
from pini_jax.evaluate.prediction import Images

Records = Sequence[Record]
Built = prompts.Prompts | Float[Array, "1 c e"]  # of the classes: to be encoded, or features that are given


class Backbone(NamedTuple):
    """What is frozen.

    Attributes:
        theta: the parameters of the towers, if there are any, and of the logits.
        text_tower, image_tower: None where features are given.
        fingerprint: names all of it, the weights or the file.
        text: (template or name of templates, name of the dataset, class names) -> the classes' prompts, or their
            text features.
        check: [images, ...] -> InputError for those whose evaluation views can be neither made nor remembered.
        encode: images -> features of their evaluation views.
        encode_text: what `text` gives -> text features.
        views: (images, config) -> [features of each cached training view].
        fresh: (images, config, view number) -> features of this training view, made when they are asked for.
        pixels: (images, config or None, view number) -> the view of that number, or for evaluation.
    """

    theta: dict
    text_tower: TextTower | None
    image_tower: nn.Module | None
    fingerprint: str
    text: Callable[[str, str, Sequence[str]], Built]
    check: Callable[[Sequence[Records]], None]
    encode: Callable[[Records], Float[np.ndarray, "b e"]]
    encode_text: Callable[[Built], Float[Array, "1 c e"]]
    views: Callable[[Records, Config], list[Float[np.ndarray, "b e"]]]
    fresh: Callable[[Records, Config, int], Images]
    pixels: Callable[[Records, Config | None, int], pixels.Views]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Features of views that are read and encoded when they are asked for."""

    views: pixels.Views
    encode: features.Encode

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, ids: Int[np.ndarray, "b"]) -> Float[Array, "b e"]:
        return self.encode(self.views[ids])


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
    tower, theta = clip.text_tower, clip.theta

    def text(template: str, dataset: str, class_names: Sequence[str]) -> Built:
        texts = templates.find(template, dataset)
        sizes, shards = clip.text_tower.sizes, meshes.batch_shards(mesh)
        built = [prompts.build(clip.tokenizer, template, class_names, sizes) for template in texts]
        placed = [_place(mesh, prompts.lay_out(one, sizes, shards)) for one in built]
        return placed[0] if len(placed) == 1 else zero_shot.ensemble([encode_text(one) for one in placed])

    def views(records: Records, config: Config) -> list[Float[np.ndarray, "b e"]]:
        if not config.views:
            features.refuse_unreadable(records)  # before the training begins
        return [
            features.features(records, clip, encoder, config.augment, config.seed, view)
            for view in range(config.views)
        ]

    def views_of(records: Records, config: Config | None, view: int) -> pixels.Views:
        if config is None:
            return pixels.Views(records, clip.preprocessing)
        return pixels.Views(records, clip.preprocessing, config.augment, config.seed, view)

    def fresh(records: Records, config: Config, view: int) -> Encoded:
        return Encoded(views_of(records, config, view), encoder)

    def check(splits: Sequence[Records]) -> None:
        unknown = {record for records in splits if not features.cached(records, clip) for record in records}
        features.refuse_unreadable(sorted(unknown, key=lambda record: record.id))

    def encode(records: Records) -> Float[np.ndarray, "b e"]:
        return features.features(records, clip, encoder)

    def encode_text(text: Built) -> Float[Array, "1 c e"]:
        return zero_shot.encode_classes(tower, theta, text) if isinstance(text, prompts.Prompts) else text

    return Backbone(
        theta=theta,
        text_tower=tower,
        image_tower=clip.image_tower,
        fingerprint=clip.fingerprint,
        text=text,
        check=check,
        encode=encode,
        encode_text=encode_text,
        views=views,
        fresh=fresh,
        pixels=views_of,
    )


def _place(mesh: jax.sharding.Mesh, built: prompts.Prompts) -> prompts.Prompts:
    """Rows of suffixes split over the devices, the rest on each."""
    rows = {key: meshes.shard(mesh, getattr(built, key)) for key in ("suffix", "place", "owner")}
    return prompts.Prompts(**meshes.replicate(mesh, built._asdict()) | rows)


def _of_pack(config: Config, mesh: jax.sharding.Mesh) -> Backbone:
    pack = packs.load(Path(config.data_dir).expanduser() / config.dataset.removeprefix("features:"))
    scale, text = meshes.replicate(mesh, (jnp.float32(np.log(pack.logit_scale)), pack.text[None]))
    labels = {name: label for label, name in enumerate(pack.findings.dataset.class_names)}

    def encode(records: Records) -> Float[np.ndarray, "b e"]:
        return np.stack([pack.images[record.id] for record in records])

    def none(*_) -> Any:
        raise InputError("a feature pack has one view of every image, and no pixels")

    return Backbone(
        theta={"logit_scale": scale},
        text_tower=None,
        image_tower=None,
        fingerprint=pack.sha256,
        text=lambda template, dataset, class_names: text[:, np.array([labels[name] for name in class_names])],
        check=lambda splits: None,
        encode=encode,
        encode_text=jnp.asarray,
        views=lambda records, config: [encode(records)],
        fresh=none,
        pixels=none,
    )
