"""A trained method with its frozen CLIP, for images that nobody has labelled.

trained = pini_jax.load_classifier("runs/digits")
probabilities = trained(["three.png"])          # [1 c], in the order of trained.class_names
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float, UInt8

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import mesh, stop
from pini_jax.core.errors import InputError
from pini_jax.core.shapes import Parameters
from pini_jax.data.datasets.records import Record
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.data.views import THREADS, view_pixels
from pini_jax.evaluate import prediction
from pini_jax.evaluate.doubt import NO_DOUBT, Doubt
from pini_jax.methods.method import Method, Text, Variables
from pini_jax.runs import injector
from pini_jax.task import frozen as frozen_halves
from pini_jax.task import task as tasks
from pini_jax.task.frozen import FrozenTowers

SHOWN = 10  # names in an error
BATCH_SIZES = (1, 8, 64)  # that programs are compiled for
Answer = Float[np.ndarray, "c"] | InputError


@dataclasses.dataclass(frozen=True)
class TrainedClassifier:
    """A frozen CLIP with a trained method.

    Probabilities are calibrated, as far as the run had held-out images: at the temperature of `doubts`.

    Attributes:
        text: the classes, as in training.
        doubts: by mode: a temperature, and when a class is plausible and a prediction unsure.
    """

    class_names: tuple[str, ...]
    config: Config
    frozen: FrozenTowers
    method: Method
    variables: Variables
    text: Text
    doubts: Mapping[str, Doubt] = dataclasses.field(default_factory=dict)

    def doubt(self, mode: str = "mean") -> Doubt:
        """Of a mode: what is plausible by its probabilities, and unsure."""
        return self.doubts.get(mode, NO_DOUBT)

    def __call__(self, images: Sequence[str | Path], mode: str = "mean") -> Float[np.ndarray, "b c"]:
        """p(class | image) of image files; `mode` as in `prediction.predict`.

        Raises:
            InputError: images are missing or cannot be decoded; all of them are named.
        """
        answers = list(self.stream(images, mode))
        if errors := [str(answer) for _, answer in answers if isinstance(answer, InputError)]:
            raise InputError("; ".join(errors))
        return np.array([answer for _, answer in answers], np.float32).reshape(-1, len(self.class_names))

    def stream(self, images: Iterable[str | Path], mode: str = "mean") -> Iterator[tuple[str, Answer]]:
        """Every image with p(class | image), or with the reason why it has none, in order.

        Memory does not grow with the number of images, and programs are compiled for a few sizes of batches only.
        """
        numbered = enumerate(map(str, images))
        with ThreadPoolExecutor(THREADS) as pool:
            while chunk := list(itertools.islice(numbered, BATCH_SIZES[-1])):
                stop.raise_if_requested()
                pixels = list(pool.map(self._read, [path for _, path in chunk]))
                readable = {i: x for (i, _), x in zip(chunk, pixels, strict=True) if not isinstance(x, InputError)}
                answers = iter(self._classify(readable, mode) if readable else ())
                for (_, path), x in zip(chunk, pixels, strict=True):
                    yield path, x if isinstance(x, InputError) else next(answers)

    def _read(self, path: str) -> UInt8[np.ndarray, "h w 3"] | InputError:
        try:
            return view_pixels(Record(path, Path(path), label=-1), self.frozen.clip.preprocessing, None, 0, 0, 0)
        except InputError as error:
            return error

    def _classify(self, pixels: Mapping[int, UInt8[np.ndarray, "h w 3"]], mode: str) -> Float[np.ndarray, "b c"]:
        """Of a batch, filled up to one of a few sizes; `pixels` by the numbers of the images."""
        size = next(size for size in BATCH_SIZES if len(pixels) <= size)
        numbers, own = np.array([*pixels]), [*pixels.values()]
        filled = np.stack(own + own[-1:] * (size - len(own)))
        images = self.frozen.clip.preprocessing.normalise(filled)
        if self.method.traits.reads == "features":
            images = np.asarray(self.frozen.encode(images))
        predicted = prediction.predict(
            *(self.method, self.variables, self.frozen.theta, self.text, images[: len(own)], mode),
            *(self.config.num_draws, self.config.seed),
            batch_size=size,
            mesh=self.frozen.mesh,
            numbers=numbers,
        )
        return self.doubt(mode).calibrated(predicted.log_probabilities)


def load_classifier(path: str | Path, clip: str = "") -> TrainedClassifier:
    """Loads what a run exported, and the CLIP that it names.

    Args:
        path: the run's folder, or its injector.safetensors.
        clip: where the weights are now, if not where they were.

    Raises:
        InputError: there is no such injector, or the CLIP is missing or another than it was trained on.
    """
    path = Path(path)
    exported = injector.load_injector(path / "injector.safetensors" if path.is_dir() else path)
    if not exported.config.clip:
        raise InputError(
            f"{path} was trained on features made elsewhere: there are no towers to read an image with"
        )
    # A run's shards may not divide the devices here; the towers are the same however they are split.
    devices = mesh.make_mesh(math.gcd(exported.config.model_shards, jax.device_count()))
    config = dataclasses.replace(exported.config, clip=clip) if clip else exported.config
    frozen = frozen_halves.load_towers(config, devices)
    if frozen.fingerprint != exported.clip_sha256:
        raise InputError(f"{path} was trained on other weights than {config.clip} holds")
    method = configs.make_method(config, frozen.towers)
    text, _ = tasks.texts(config, frozen, exported.class_names, config.dataset)
    check_variables(method, frozen.theta, text, exported.variables)
    return TrainedClassifier(
        exported.class_names, config, frozen, method, exported.variables, text, exported.doubts
    )


def check_variables(method: Method, theta: Parameters, text: Text, variables: Variables) -> None:
    """Raises InputError where variables are not those of the method: by names, kinds and shapes."""
    classes, width = text.features.shape[1:]
    support = Support(np.zeros((2, classes, width), np.float32), np.arange(classes))
    if method.traits.sets_itself:  # from images of which each counts
        support = NO_SUPPORT
    expected = jax.eval_shape(lambda key: method.init(key, theta, text, support), jax.random.key(0))
    wanted, given = (flatten_dict(dict(tree._asdict()), sep="/") for tree in (expected, variables))
    if unlike := sorted(wanted.keys() ^ given.keys()):
        raise InputError(f"the injector is not one of this method: {', '.join(unlike[:SHOWN])}")
    for name, x in wanted.items():
        fits = method.traits.keeps_support or x.shape == given[name].shape
        if not fits or x.dtype != given[name].dtype:
            raise InputError(f"the injector's {name} is {given[name].dtype}{list(given[name].shape)}, not {x}")
