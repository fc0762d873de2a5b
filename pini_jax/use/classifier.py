"""Classifies images: python -m pini_jax.predict --workdir=runs/digits IMAGE [IMAGE ...].

From Python:

    classifier = pini_jax.predict.load("runs/digits")
    probabilities = classifier(["three.png"])                   # [1 c], in the order of classifier.class_names
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

from pini_jax import config as configs
from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.config import Config
from pini_jax.core import mesh
from pini_jax.core.errors import InputError
from pini_jax.data import features, templates
from pini_jax.data import views as pixels
from pini_jax.data.datasets.records import Record
from pini_jax.evaluate import prediction as evaluate
from pini_jax.methods.method import Method, Text, Variables
from pini_jax.methods.registry import Towers
from pini_jax.runs import injector as export


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A frozen CLIP with a trained method."""

    class_names: tuple[str, ...]
    config: Config
    clip: pretrained.Pretrained
    encode: features.Encode
    method: Method
    variables: Variables
    text: Text

    def __call__(self, images: Sequence[str | Path], mode: str = "mean") -> Float[np.ndarray, "b c"]:
        """p(class | image) of image files; `mode` as in `evaluate.predict`.

        Raises:
            InputError: an image is missing or cannot be decoded.
        """
        if not images:
            return np.zeros((0, len(self.class_names)), np.float32)
        records = [Record(str(path), Path(path), label=-1) for path in images]
        views = pixels.Views(records, self.clip.preprocessing)[np.arange(len(records))]
        predicted = evaluate.predict(
            self.method,
            self.variables,
            self.clip.theta,
            self.text,
            views if "pixels" in self.method.needs else np.asarray(self.encode(views)),
            mode,
            self.config.num_draws,
            self.config.seed,
        )
        return np.exp(predicted.log_probabilities)


def load(path: str | Path) -> Classifier:
    """Loads what a run exported, and the CLIP that it names.

    Args:
        path: the run's folder, or its injector.safetensors.

    Raises:
        InputError: there is no such injector, or the CLIP is missing or another than it was trained on.
    """
    path = Path(path)
    exported = export.load(path / "injector.safetensors" if path.is_dir() else path)
    config = exported.config
    if not config.clip:
        raise InputError(
            f"{path} was trained on features made elsewhere: there are no towers to read an image with"
        )
    # A run's shards may not divide the devices here; the towers are the same however they are split.
    devices = mesh.make(math.gcd(config.model_shards, jax.device_count()))
    dtype = pretrained.tower_dtype(config.dtype)
    clip = pretrained.load(config.clip, config.tokenizer, dtype, config.image_size, devices)
    if clip.fingerprint != exported.clip_sha256:
        raise InputError(f"{path} was trained on other weights than {config.clip} holds now")
    method = configs.make_method(config, Towers(clip.text_tower, clip.image_tower))
    text = _texts(config, clip, exported.class_names, "prompts" in method.needs)
    encode = features.make_encoder(clip, devices)
    return Classifier(exported.class_names, config, clip, encode, method, exported.variables, text)


def _texts(config: Config, clip: pretrained.Pretrained, class_names: Sequence[str], to_encode: bool) -> Text:
    """The classes as in training: prompts with plain CLIP's zero-shot features beside them, or features alone."""
    tower, theta = clip.text_tower, clip.theta

    def build(template: str) -> prompts.Prompts:
        built = prompts.build(clip.tokenizer, template, class_names, tower.sizes)
        return prompts.lay_out(built, tower.sizes, shards=1)

    def encode(name: str) -> Float[Array, "1 c e"]:
        templated = [build(template) for template in templates.find(name, config.dataset)]
        return zero_shot.ensemble([zero_shot.encode_classes(tower, theta, one) for one in templated])

    if not to_encode:
        return Text(encode(config.template))
    (template,) = templates.find(config.template, config.dataset)
    return Text(encode(config.zero_shot_template), build(template))
