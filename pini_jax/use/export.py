"""A trained classifier as a file for others: a program from pixels to probabilities, or the classes' embeddings.

The program takes normalised pixels and gives calibrated probabilities, with the mean noise. What stands beside it
says how pixels are made of an image, and what follows from the probabilities.

Shapes: as in `core.shapes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Float

import pini_jax
from pini_jax.clip.towers import stage
from pini_jax.core import extras, paths
from pini_jax.core import mesh as meshes
from pini_jax.core.errors import InputError, last_line
from pini_jax.core.shapes import Numbers, Parameters
from pini_jax.evaluate import doubt, prediction
from pini_jax.evaluate.prediction import Drawn
from pini_jax.methods import forward
from pini_jax.methods.method import Variables
from pini_jax.runs import injector
from pini_jax.task.frozen import FrozenTowers
from pini_jax.use import classifier as classifiers
from pini_jax.use.classifier import TrainedClassifier

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # of probabilities, between an ONNX file and what it was made of
LARGEST = 2**31 - 2**24  # bytes of weights: a program is one message, which ends at 2 GiB
Program = Callable[[Float[Numbers, "b h w 3"]], Float[Array, "b c"]]


def load(path: str | Path, clip: str = "") -> TrainedClassifier:
    """Loads what a run exported, for computing in float32 whatever the run used: the file is for every device.

    Raises:
        InputError: as in `load_classifier`.
    """
    exported = injector.load_run(path)
    config = dataclasses.replace(exported.config, dtype="float32")
    return classifiers.assemble(exported._replace(config=config), str(path), clip)


def write(trained: TrainedClassifier, form: str, path: Path) -> None:
    """Writes a file of one of `FORMS`, and a description as JSON beside it.

    Raises:
        InputError: this classifier cannot be written so; nothing is.
    """
    content = FORMS[form](trained)
    paths.write_json(path.with_name(f"{path.name}.json"), _describe(trained, form, content))
    paths.write_file(path, content)


def _describe(trained: TrainedClassifier, form: str, content: bytes) -> dict[str, Any]:
    """What a file does not say itself: how pixels are made, the classes, and the fields of `Doubt`."""
    frozen = trained.frozen
    preprocessing = dataclasses.asdict(frozen.clip.preprocessing) if isinstance(frozen, FrozenTowers) else None
    return {
        "format": form,
        "pini_jax": pini_jax.__version__,
        "sha256": hashlib.sha256(content).hexdigest(),
        "preprocessing": preprocessing,
        "class_names": trained.class_names,
        "doubt": doubt.to_json(trained.doubt()),
    }


# ------------------------------------------------------------------------------------------------ programs


def program(trained: TrainedClassifier) -> Program:
    """p(c | x) = softmax_c(logits / temperature) of normalised pixels, with the mean noise.

    Raises:
        InputError: there are no towers, or their weights are too large for one file.
    """
    tower, method, temperature = trained.towers.clip.image_tower, trained.method, trained.doubt().temperature
    variables, theta, text = _held(trained)

    def probabilities(pixels: Float[Numbers, "b h w 3"]) -> Float[Array, "b c"]:
        images = pixels if method.traits.reads == "pixels" else stage(tower, "__call__", theta["image"], pixels)
        logits, _ = forward.classify(method, variables, theta, text, images)
        return jax.nn.softmax(logits[0, 0] / temperature)

    return probabilities


def _held(trained: TrainedClassifier) -> tuple[Variables, Parameters, Float[Array, "1 c e"]]:
    """What a program holds, on one device: what was learned, the image tower and the logits', and the classes."""
    drawn = _drawn(trained)
    theta = {key: part for key, part in drawn.theta.items() if key != "text"}
    held = jax.tree.map(jnp.asarray, jax.device_get((trained.variables, theta, drawn.text)))
    if (size := sum(x.nbytes for x in jax.tree.leaves(held))) > LARGEST:
        raise InputError(f"the weights have {size:,} bytes; in a file of one message {LARGEST:,} are the most")
    return held


def _drawn(trained: TrainedClassifier) -> Drawn:
    theta, config = trained.frozen.theta, trained.config
    return prediction.draw(trained.method, trained.variables, theta, trained.text, "mean", 1, config.seed)


def _pixels(trained: TrainedClassifier) -> jax.ShapeDtypeStruct:
    """What a program is given, [b h w 3], for any b."""
    side = trained.towers.clip.preprocessing.crop
    return jax.ShapeDtypeStruct((*jax_export.symbolic_shape("b"), side, side, 3), np.float32)


def stablehlo(trained: TrainedClassifier) -> bytes:
    """The program for `jax.export.deserialize`, on any of `PLATFORMS`, for any number of images.

    Raises:
        InputError: as in `program`, the extra `export` is not installed, or something in it cannot be written.
    """
    extras.require("flatbuffers", "export")
    answer = jax.jit(program(trained))
    try:
        return bytes(jax_export.export(answer, platforms=PLATFORMS)(_pixels(trained)).serialize())
    except Exception as error:  # a plug-in may do what cannot be lowered: errors of many kinds
        raise InputError(f"this cannot be written as StableHLO ({last_line(error)})") from error


def onnx(trained: TrainedClassifier) -> bytes:
    """The program as an ONNX model from `pixels` to `probabilities`, for any number of images.

    Raises:
        InputError: as in `stablehlo`, or ONNX Runtime answers otherwise.
    """
    converter, runtime = extras.require("jax2onnx", "export"), extras.require("onnxruntime", "export")
    answer, pixels = program(trained), _pixels(trained)
    images = np.random.default_rng(0).standard_normal((3, *pixels.shape[1:]), np.float32)
    expected = jax.jit(answer)(images)
    try:
        content = _convert(converter, answer, pixels)
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors: every constant that the converter leaves unused is a warning
        (found,) = runtime.InferenceSession(content, options).run(None, {"pixels": images})
    except Exception as error:  # what has no counterpart is said in errors of many kinds
        raise InputError(f"this cannot be written as ONNX ({last_line(error)})") from error
    if not np.allclose(found, expected, rtol=0, atol=TOLERANCE):
        raise InputError("this cannot be written as ONNX: ONNX Runtime answers otherwise")
    return content


def _convert(converter: ModuleType, answer: Program, pixels: jax.ShapeDtypeStruct) -> bytes:
    # Traced before: while the converter traces it replaces parts of Flax and JAX by its own.
    traced = jaxpr_as_fun(jax.make_jaxpr(answer)(pixels))
    names = {"input_names": ["pixels"], "output_names": ["probabilities"]}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it tries
        model = converter.to_onnx(lambda x: traced(x)[0], [pixels], model_name="pini_jax", **names)
    return model.SerializeToString()


# ------------------------------------------------------------------------------------------------ embeddings


def embeddings(trained: TrainedClassifier) -> bytes:
    """The content of a run's classes.safetensors.

    Raises:
        InputError: more than the classes' embeddings makes the answers.
    """
    if trained.method.traits.moves_images:
        raise InputError("here more than embeddings of the classes makes the answers: use stablehlo or onnx")
    drawn = _drawn(trained)
    scale = float(np.exp(meshes.fetch(drawn.theta["logit_scale"])))
    return injector.embeddings_file(meshes.fetch(drawn.text)[0], scale, trained.class_names)


FORMS: Mapping[str, Callable[[TrainedClassifier], bytes]] = {
    "stablehlo": stablehlo,
    "onnx": onnx,
    "embeddings": embeddings,
}
