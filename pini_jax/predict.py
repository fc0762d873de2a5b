"""Classifies images by a trained run.

    pini predict --workdir=runs/digits three.png seven.png

Prints a line for every image that can be read: file, class, probability. Others are named at the end, on stderr,
and the exit status is 1.
"""

from __future__ import annotations

if __name__ == "__main__":
    from pini_jax.core import stop

    stop.listen()  # before what is slow to import

from collections.abc import Sequence

from absl import flags

from pini_jax.core import command
from pini_jax.core.errors import InputError
from pini_jax.core.paths import refuse_scheme
from pini_jax.core.wording import listed, plain
from pini_jax.evaluate import prediction
from pini_jax.use import classifier


def define_flags(values: flags.FlagValues) -> None:
    """What is loaded, and how it predicts."""
    flags.DEFINE_string(
        "workdir", None, "Folder of a finished run, or its injector.safetensors.", flag_values=values
    )
    flags.DEFINE_string("clip", "", "Where the CLIP is now, if not where it was.", flag_values=values)
    flags.DEFINE_enum("mode", "mean", prediction.MODES, "How noise is used.", flag_values=values)


def main(values: flags.FlagValues, images: Sequence[str]) -> None:
    """Prints a line for every image, as soon as it is known."""
    for name, value in (("--workdir", values.workdir), ("--clip", values.clip)):
        refuse_scheme(name, value)
    trained = classifier.load_classifier(values.workdir, values.clip)
    unreadable = []
    for image, answer in trained.stream(images, values.mode):
        if isinstance(answer, InputError):
            unreadable.append(str(answer))
        else:
            print(f"{image}\t{plain(trained.class_names[answer.argmax()])}\t{answer.max():.1%}", flush=True)
    if unreadable:
        raise InputError(f"{len(unreadable)} of {len(images)} images: {listed(unreadable, '; ')}")


COMMAND = command.Command("pini predict", __doc__, define_flags, main, required=("workdir",), argument="IMAGE")

if __name__ == "__main__":
    command.run(COMMAND)
