"""Writes a finished run as a file that needs no pini_jax: program or embeddings.

    pini export --workdir=runs/digits --format=stablehlo --output=digits.stablehlo
    pini export --workdir=runs/digits --format=onnx --output=digits.onnx

A program takes normalised pixels [b h w 3] in float32 and gives calibrated probabilities [b c], with the mean
noise, for any number of images: stablehlo by jax.export on CPU, CUDA and TPU, onnx by ONNX Runtime (extra export).
Where the cosines of plain image features with the classes are enough, embeddings holds these classes. FILE.json,
beside it, says how an image becomes pixels, and has the classes' names, the temperature and the limits of doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from pini_jax.core import command
from pini_jax.core.errors import InputError
from pini_jax.core.paths import check_address, refuse_bucket
from pini_jax.evaluate.prediction import MODES
from pini_jax.use import export


def define_flags(values: flags.FlagValues) -> None:
    """What is written, as what, and where."""
    forms = [*export.FORMS]
    flags.DEFINE_string("workdir", None, "A run's folder, its injector, or hub:owner/name.", flag_values=values)
    flags.DEFINE_enum("format", None, forms, f"One of {', '.join(forms)}.", flag_values=values)
    flags.DEFINE_string("output", None, "The file; FILE.json is written beside it.", flag_values=values)
    flags.DEFINE_enum(
        "mode", "mean", MODES, "How noise is used: only the mean can be written.", flag_values=values
    )
    flags.DEFINE_string("clip", "", "Where the CLIP is now, if not where it was.", flag_values=values)


def main(values: flags.FlagValues, _: Sequence[str] = ()) -> None:
    """Writes the file, and says how large it is."""
    for name in ("workdir", "clip"):
        check_address(f"--{name}", getattr(values, name))
    refuse_bucket("--output", values.output)
    if values.mode != "mean":
        raise InputError(f"--mode={values.mode} draws anew for every image, which no file can: leave it out")
    output = Path(values.output)
    if not output.parent.is_dir() or output.is_dir():
        raise InputError(f"--output={output} must be a file in a folder that there is")
    trained = export.load(values.workdir, values.clip)
    export.write(trained, values.format, output)
    print(f"{output}: {values.format}, {len(trained.class_names)} classes, {output.stat().st_size / 1e6:.2f} MB")


COMMAND = command.Command("pini export", __doc__, define_flags, main, required=("workdir", "format", "output"))

if __name__ == "__main__":
    command.run(COMMAND)
