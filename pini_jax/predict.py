"""Classifies images: python -m pini_jax.predict --workdir=runs/digits IMAGE [IMAGE ...]."""

from __future__ import annotations

from collections.abc import Sequence

from absl import app, flags

from pini_jax.core import runtime
from pini_jax.core.errors import InputError
from pini_jax.evaluate import prediction
from pini_jax.use import classifier


def main(argv: Sequence[str]) -> None:
    """Prints a line for every image: file, class, probability."""
    runtime.prepare()
    images = argv[1:]
    with runtime.errors_as_lines():
        if not images:
            raise InputError("name one image file or more")
        trained = classifier.load(flags.FLAGS.workdir)
        probabilities = trained(images, flags.FLAGS.mode)
    for image, p in zip(images, probabilities, strict=True):
        print(f"{image}\t{trained.class_names[p.argmax()]}\t{p.max():.1%}")


if __name__ == "__main__":
    # Not above: who imports this module may have flags of the same names.
    flags.DEFINE_string("workdir", None, "Folder of a finished run, or its injector.safetensors.")
    flags.DEFINE_enum("mode", "mean", prediction.MODES, "How noise is used at prediction.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
