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
from absl import app, flags
from jaxtyping import Float

from pini_jax import evaluate, export, mesh, runtime
from pini_jax.clip import pretrained
from pini_jax.config import Config
from pini_jax.data import features, prompts, templates
from pini_jax.data.records import Record, open_image
from pini_jax.data.transforms import test_view
from pini_jax.errors import InputError
from pini_jax.noise import generators
from pini_jax.noise.injector import Injector, Text


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A frozen CLIP with a trained injector."""

    class_names: tuple[str, ...]
    config: Config
    clip: pretrained.Pretrained
    encode: features.Encode
    injector: Injector
    phi: dict
    text: Text

    def __call__(self, images: Sequence[str | Path], mode: str = "mean") -> Float[np.ndarray, "b c"]:
        """p(class | image) of image files; `mode` as in `evaluate.predict`.

        Raises:
            InputError: an image is missing or cannot be decoded.
        """
        if not images:
            return np.zeros((0, len(self.class_names)), np.float32)
        records = [Record(str(path), Path(path), label=-1) for path in images]
        views = [test_view(open_image(record), self.clip.preprocessing) for record in records]
        encoded = np.asarray(self.encode(self.clip.preprocessing.normalise(np.stack(views))))
        log_probabilities = evaluate.predict(
            self.injector,
            self.phi,
            self.clip.theta,
            self.text,
            encoded,
            mode,
            self.config.num_draws,
            self.config.seed,
        )
        return np.exp(log_probabilities)


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
    injector = Injector(clip.text_tower, generators.build(config.noise))
    (template,) = templates.find(config.template, config.dataset)
    sizes = clip.text_tower.sizes
    built = prompts.build(clip.tokenizer, template, exported.class_names, sizes)
    text = prompts.lay_out(built, sizes, shards=1)
    encode = features.make_encoder(clip, devices)
    return Classifier(exported.class_names, config, clip, encode, injector, exported.phi, text)


def main(argv: Sequence[str]) -> None:
    """Prints a line for every image: file, class, probability."""
    runtime.prepare()
    images = argv[1:]
    with runtime.errors_as_lines():
        if not images:
            raise InputError("name one image file or more")
        classifier = load(flags.FLAGS.workdir)
        probabilities = classifier(images, flags.FLAGS.mode)
    for image, p in zip(images, probabilities, strict=True):
        print(f"{image}\t{classifier.class_names[p.argmax()]}\t{p.max():.1%}")


if __name__ == "__main__":
    # Not above: who imports this module may have flags of the same names.
    flags.DEFINE_string("workdir", None, "Folder of a finished run, or its injector.safetensors.")
    flags.DEFINE_enum("mode", "mean", evaluate.MODES, "How noise is used at prediction.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
