"""The frozen half of a run: what turns images and class names into what the noise is added to.

There are two: the towers of a CLIP, and a pack of features that was made elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.clip.pretrained import Pretrained
from pini_jax.clip.prompts import Prompts
from pini_jax.config import Config
from pini_jax.core import mesh as meshes
from pini_jax.core import stop
from pini_jax.core.errors import InputError
from pini_jax.core.shapes import Parameters
from pini_jax.data import features, templates
from pini_jax.data.datasets import sources
from pini_jax.data.datasets.packs import Pack
from pini_jax.data.datasets.records import Record
from pini_jax.data.datasets.unreadable import refuse_unreadable
from pini_jax.data.features import Encode
from pini_jax.data.support import stand_ins
from pini_jax.data.transforms import Augment
from pini_jax.data.views import Views
from pini_jax.methods.method import Reads
from pini_jax.methods.registry import NO_TOWERS, Towers

Records = Sequence[Record]


@runtime_checkable
class Images(Protocol):
    """Images by number: their features, or pixels that are read on access."""

    def __len__(self) -> int: ...
    def __getitem__(self, ids: Int[np.ndarray, "b"], /) -> Any:
        """The images of these numbers, [b *x]."""


class View(NamedTuple):
    """An augmented view for training; the number tells views of one seed apart."""

    augment: Augment
    seed: int
    number: int


@runtime_checkable
class Frozen(Protocol):
    """The frozen half of a task: the towers, or a pack of features.

    Attributes:
        theta: the parameters of the towers, if there are any, and of the logits.
        towers: their modules.
        fingerprint: names all of it, the weights or the file.
        source: what the weights were loaded from, as in `Pretrained`; "" where there are none.
        mesh: the devices that hold it.
        has_texts: whether the classes' texts are known, or else `stand_ins` of images are taken for them.
    """

    @property
    def mesh(self) -> jax.sharding.Mesh: ...
    @property
    def theta(self) -> Parameters: ...
    @property
    def towers(self) -> Towers: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def has_texts(self) -> bool: ...

    def trained_on(self, records: Records) -> Frozen:
        """This frozen half for a selection, whose images stand in for texts that are not known."""

    def text_features(self, template: str, dataset: str, class_names: Sequence[str]) -> Float[Array, "1 c e"]:
        """The classes' text features, with a template or with a dataset's templates of that name."""

    def prompts(self, template: str, dataset: str, class_names: Sequence[str]) -> Prompts:
        """The classes' prompts with a single template, to be encoded at every step."""

    def given(self, class_names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """What prediction needs besides a method's variables and that no CLIP provides."""

    def images(self, records: Records, reads: Reads, view: View | None = None, kept: bool = True) -> Images:
        """Images as a method reads them.

        Args:
            view: a training view, or None for that of evaluation.
            kept: whether all of them are made now, features from the cache; or else when they are asked for.

        Raises:
            InputError: one is missing or cannot be decoded.
        """

    def check(self, splits: Sequence[Records], cached: bool = True) -> None:
        """Raises InputError for images that cannot be decoded.

        Args:
            cached: whether features of evaluation views in the cache are as good as the images.
        """


def load_frozen(config: Config, mesh: jax.sharding.Mesh) -> Frozen:
    """Loads the towers that `clip` names, or the pack that `dataset` names.

    Raises:
        InputError: it cannot be used.
    """
    if sources.has_images(config.dataset):
        return load_towers(config, mesh)
    return FrozenPack(sources.open_pack(config.dataset, config.data_dir), mesh)


def load_towers(config: Config, mesh: jax.sharding.Mesh) -> FrozenTowers:
    """Loads the towers that `clip` names.

    Raises:
        InputError: they cannot be used.
    """
    dtype = pretrained.tower_dtype(config.dtype)
    return FrozenTowers(pretrained.load_clip(config.clip, config.tokenizer, dtype, config.image_size, mesh), mesh)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Features of views that are read and encoded on access."""

    views: Views
    encode: Encode

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, ids: Int[np.ndarray, "b"]) -> Float[Array, "b e"]:
        return self.encode(self.views[ids])


@dataclasses.dataclass(frozen=True)
class FrozenTowers:
    """The towers of a CLIP, on a mesh."""

    clip: Pretrained
    mesh: jax.sharding.Mesh

    @property
    def theta(self) -> Parameters:
        """The parameters of both towers and of the logits."""
        return self.clip.theta

    @property
    def towers(self) -> Towers:
        """The modules of both towers."""
        return Towers(self.clip.text_tower, self.clip.image_tower)

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, the tokenizer and the pre-processing."""
        return self.clip.fingerprint

    @property
    def source(self) -> str:
        """The source of the weights."""
        return self.clip.source

    @property
    def has_texts(self) -> bool:
        """True: a text tower encodes them."""
        return True

    def trained_on(self, records: Records) -> FrozenTowers:
        """Itself, whatever the selection."""
        return self

    @functools.cached_property
    def encode(self) -> Encode:
        """Maps pixels to features; compiled once per batch size."""
        return features.make_encoder(self.clip, self.mesh)

    def text_features(self, template: str, dataset: str, class_names: Sequence[str]) -> Float[Array, "1 c e"]:
        """The classes' text features, as in `Frozen`; with several templates, their ensemble."""
        return zero_shot.ensemble(
            [self._encode(text, class_names) for text in templates.find_templates(template, dataset)]
        )

    def _encode(self, template: str, class_names: Sequence[str]) -> Float[Array, "1 c e"]:
        stop.raise_if_requested()
        built = self._build(template, class_names)
        # Waited for, so that a stop between two templates is soon.
        return jax.block_until_ready(zero_shot.encode_classes(self.clip.text_tower, self.clip.theta, built))

    def prompts(self, template: str, dataset: str, class_names: Sequence[str]) -> Prompts:
        """The classes' prompts, as in `Frozen`."""
        (text,) = templates.find_templates(template, dataset)
        return self._build(text, class_names)

    def given(self, class_names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Nothing: the CLIP provides everything."""
        return {}

    def _build(self, template: str, class_names: Sequence[str]) -> Prompts:
        """Rows of suffixes split over the devices, the rest on each."""
        sizes, shards = self.clip.text_tower.sizes, meshes.batch_shards(self.mesh)
        built = prompts.build(self.clip.tokenizer, template, class_names, sizes)
        built = prompts.lay_out(built, sizes, shards)
        rows = {key: meshes.shard(self.mesh, getattr(built, key)) for key in ("suffix", "place", "owner")}
        return Prompts(**meshes.replicate(self.mesh, built._asdict()) | rows)

    def images(self, records: Records, reads: Reads, view: View | None = None, kept: bool = True) -> Images:
        """Images as a method reads them, as in `Frozen`."""
        how = (view.augment, view.seed, view.number) if view else (None, 0, 0)
        if reads == "features" and kept:
            return features.features(records, self.clip, self.encode, *how)
        views = Views(records, self.clip.preprocessing, *how)
        if reads == "features":
            return Encoded(views, self.encode)
        return views.held() if kept else views

    def check(self, splits: Sequence[Records], cached: bool = True) -> None:
        """Raises InputError for images that cannot be decoded, as in `Frozen`."""
        unknown = {
            record
            for records in splits
            if not (cached and features.cached(records, self.clip))
            for record in records
        }
        refuse_unreadable(sorted(unknown, key=lambda record: record.id))


@dataclasses.dataclass(frozen=True)
class FrozenPack:
    """Precomputed features: one view of every image, and no towers.

    Attributes:
        selection: the images that stand for the texts of the classes, where the pack has none.
    """

    pack: Pack
    mesh: jax.sharding.Mesh
    selection: Records = ()

    @functools.cached_property
    def theta(self) -> Parameters:
        """The parameters of the logits alone."""
        return {"logit_scale": meshes.replicate(self.mesh, jnp.float32(np.log(self.pack.logit_scale)))}

    @property
    def towers(self) -> Towers:
        """No modules."""
        return NO_TOWERS

    @property
    def fingerprint(self) -> str:
        """A hash of the file."""
        return self.pack.sha256

    @property
    def source(self) -> str:
        """Empty: there are no weights."""
        return ""

    @property
    def has_texts(self) -> bool:
        """Whether the pack has text features."""
        return self.pack.text is not None

    def trained_on(self, records: Records) -> FrozenPack:
        """This pack for a selection, as in `Frozen`."""
        return self if self.has_texts else dataclasses.replace(self, selection=records)

    @functools.cached_property
    def text(self) -> Float[np.ndarray, "c e"]:
        """The text features of all classes: the pack's, or their substitutes.

        Raises:
            InputError: as in `stand_ins`.
        """
        if self.pack.text is not None:
            return self.pack.text
        labels = np.array([record.label for record in self.selection])
        classes = len(self.pack.findings.dataset.class_names)
        return stand_ins(np.asarray(self.images(self.selection, "features")), labels, classes)

    def text_features(self, template: str, dataset: str, class_names: Sequence[str]) -> Float[Array, "1 c e"]:
        """The pack's text features, whatever the template."""
        return meshes.replicate(self.mesh, self.given(class_names)["text"][None])

    def given(self, class_names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The text features of these classes and exp(s); and `stands_in`, if images stand in for the texts."""
        labels = {name: label for label, name in enumerate(self.pack.findings.dataset.class_names)}
        chosen = self.text[np.array([labels[name] for name in class_names])]
        found = {"text": chosen, "logit_scale": np.float64(self.pack.logit_scale)}
        return found if self.has_texts else found | {"stands_in": np.True_}

    def prompts(self, template: str, dataset: str, class_names: Sequence[str]) -> Prompts:
        """Raises InputError: a pack has no text tower."""
        raise InputError("a feature pack has no text tower: there are no prompts to encode")

    def images(self, records: Records, reads: Reads, view: View | None = None, kept: bool = True) -> Images:
        """The features, whatever the view.

        Raises:
            InputError: it is pixels that are asked for.
        """
        if reads == "pixels":
            raise InputError("a feature pack has one view of every image, and no pixels")
        return np.stack([self.pack.images[record.id] for record in records])

    def check(self, splits: Sequence[Records], cached: bool = True) -> None:
        """Nothing can be wrong: the pack has been read."""
