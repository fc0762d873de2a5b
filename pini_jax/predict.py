"""Classifies images by a trained run.

    pini predict --workdir=runs/digits three.png seven.png

Prints a line for every image: file, class, probability.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from pini_jax.core import command
from pini_jax.evaluate import prediction
from pini_jax.use import classifier


def define_flags(values: flags.FlagValues) -> None:
    """What is loaded, and how it predicts."""
    flags.DEFINE_string(
        "workdir", None, "Folder of a finished run, or its injector.safetensors.", flag_values=values
    )
    flags.DEFINE_enum("mode", "mean", prediction.MODES, "How noise is used.", flag_values=values)


def main(values: flags.FlagValues, images: Sequence[str]) -> None:
    """Prints a line for every image."""
    trained = classifier.load(values.workdir)
    for image, p in zip(images, trained(images, values.mode), strict=True):
        print(f"{image}\t{trained.class_names[p.argmax()]}\t{p.max():.1%}")


COMMAND = command.Command("pini predict", __doc__, define_flags, main, required=("workdir",), argument="IMAGE")

if __name__ == "__main__":
    command.run(COMMAND)
