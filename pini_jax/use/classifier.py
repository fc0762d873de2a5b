"""A trained method with what is frozen, for images that nobody has labelled.

trained = pini_jax.load_classifier("runs/digits")
probabilities = trained(["three.png"])          # [1 c], in the order of trained.class_names
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Bool, Float, Int, Num, UInt8

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import mesh, runtime, stop
from pini_jax.core.errors import InputError
from pini_jax.core.shapes import Parameters
from pini_jax.core.wording import listed
from pini_jax.data.datasets import packs
from pini_jax.data.datasets.memory import Picture, make_record
from pini_jax.data.datasets.records import Record
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.data.views import THREADS, view_pixels
from pini_jax.evaluate import prediction
from pini_jax.evaluate.doubt import NO_DOUBT, Doubt, to_json
from pini_jax.evaluate.prediction import Drawn, Predictions
from pini_jax.methods.method import Method, Text, Variables
from pini_jax.runs import injector
from pini_jax.runs.injector import Exported
from pini_jax.task import frozen as frozen_halves
from pini_jax.task import task as tasks
from pini_jax.task.frozen import Frozen, FrozenPack, FrozenTowers

BATCH_SIZES = prediction.BATCHES["pixels"]
AHEAD = 2  # batches of images that are read while one is classified
Pixels = UInt8[np.ndarray, "h w 3"] | InputError


class Answer(NamedTuple):
    """The answer for one image: p(class | image), the plausible classes, and whether it may be of none of them."""

    probabilities: Float[np.ndarray, "c"]
    plausible: Bool[np.ndarray, "c"]
    unsure: bool


@dataclasses.dataclass(frozen=True)
class TrainedClassifier:
    """A trained method with the frozen half.

    Probabilities are calibrated, as far as the run had held-out images: at the temperature of `doubts`.

    Attributes:
        text: the classes, as in training.
        doubts: by mode: a temperature, and when a class is plausible and a prediction unsure.
    """

    class_names: tuple[str, ...]
    config: Config
    frozen: Frozen
    method: Method
    variables: Variables
    text: Text
    doubts: Mapping[str, Doubt] = dataclasses.field(default_factory=dict)
    _drawn: dict[str, Drawn] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def doubt(self, mode: str = "mean") -> Doubt:
        """The `Doubt` of a mode: which classes are plausible, and when a prediction is unsure."""
        return self.doubts.get(mode, NO_DOUBT)

    @property
    def towers(self) -> FrozenTowers:
        """The frozen towers.

        Raises:
            InputError: the method was trained on features.
        """
        if not isinstance(self.frozen, FrozenTowers):
            raise InputError(
                "this was trained on features made elsewhere: there are no towers to read an image with"
            )
        return self.frozen

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies everything that affects an answer: settings, frozen half, what was learned, classes,
        temperatures.
        """
        doubts = {mode: to_json(doubt) for mode, doubt in self.doubts.items()}
        known = [self.config.hash, self.frozen.fingerprint, *self.class_names, doubts]
        digest = hashlib.sha256(json.dumps(known).encode())
        for leaf in jax.tree.leaves(self.variables):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def __call__(
        self, images: Sequence[Picture] | Num[np.ndarray, "b *x"], mode: str = "mean"
    ) -> Float[np.ndarray, "b c"]:
        """p(class | image); `mode` as in `prediction.draw`.

        Args:
            images: paths, PIL images, bytes of image files, uint8 arrays [h w 3], or one [b h w 3]; features [b e]
                where the method was trained on features.

        Raises:
            InputError: images are missing or cannot be decoded; all of them are named. Features are of another
                width, or zero, or not finite.
        """
        answers = self._answer(images, mode)
        return np.array([x.probabilities for x in answers], np.float32).reshape(-1, len(self.class_names))

    def unsure(
        self, images: Sequence[Picture] | Num[np.ndarray, "b *x"], mode: str = "mean"
    ) -> Bool[np.ndarray, "b"]:
        """Whether each image may be of none of the classes; never, where the run had no held-out images.

        Raises:
            InputError: as in a call.
        """
        return np.array([answer.unsure for answer in self._answer(images, mode)], bool)

    def _answer(self, images: Sequence[Picture] | Num[np.ndarray, "b *x"], mode: str) -> list[Answer]:
        """Of all images."""
        if isinstance(self.frozen, FrozenPack):
            return self._answer_features(np.asarray(images), mode)
        answers = [answer for _, _, answer in self.classify_all(_numbered(images), mode)]
        if errors := [str(answer) for answer in answers if isinstance(answer, InputError)]:
            raise InputError("; ".join(errors))
        return [answer for answer in answers if not isinstance(answer, InputError)]

    def _answer_features(self, features: Num[np.ndarray, "b e"], mode: str) -> list[Answer]:
        """Of features of any norm."""
        width = self.text.features.shape[-1]
        if features.ndim != 2 or features.shape[1] != width:
            raise InputError(
                f"this was trained on features made elsewhere, and has no towers to read an image with: it takes "
                f"features [b, {width}], not {list(features.shape)}"
            )
        if problems := list(packs.unusable("features", features)):
            raise InputError("; ".join(problems))
        size = prediction.BATCHES["features"][-1]  # one for all, so that no answer depends on the others
        predicted = self._predict(packs.as_unit(features), np.arange(len(features)), size, mode)
        return self._answers(predicted, mode)

    def _answers(self, predicted: Predictions, mode: str) -> list[Answer]:
        """Of every image that was predicted."""
        doubt = self.doubt(mode)
        probabilities = doubt.calibrated(predicted.log_probabilities).astype(np.float32)
        unsure = doubt.unsure(predicted.energy.astype(np.float64))
        return [*map(Answer, probabilities, doubt.plausible(probabilities), unsure.tolist())]

    def stream(
        self, images: Iterable[Picture], mode: str = "mean"
    ) -> Iterator[tuple[str, Float[np.ndarray, "c"] | InputError]]:
        """Yields p(class | image) for every image in order, or the reason why there is none.

        Memory does not grow with the number of images, and programs are compiled for a few sizes of batches only.
        """
        for _, record, answer in self.classify_all(_numbered(images), mode):
            yield record.id, answer if isinstance(answer, InputError) else answer.probabilities

    def classify_all(
        self, images: Iterable[tuple[int, Record]], mode: str = "mean"
    ) -> Iterator[tuple[int, Record, Answer | InputError]]:
        """Like `stream`, for records with their numbers among all images: every number has its own draws."""
        for batch in self._read_all(iter(images)):
            stop.raise_if_requested()
            readable = {i: pixels for i, _, pixels in batch if not isinstance(pixels, InputError)}
            answers = iter(self.classify_pixels([*readable], [*readable.values()], mode) if readable else ())
            for i, record, pixels in batch:
                yield i, record, pixels if isinstance(pixels, InputError) else next(answers)

    def _read_all(self, images: Iterator[tuple[int, Record]]) -> Iterator[list[tuple[int, Record, Pixels]]]:
        """Batches of decoded images; threads read some ahead."""
        size, pool = BATCH_SIZES[-1], ThreadPoolExecutor(THREADS)

        def submit(number: int) -> Iterator[tuple[int, Record, Future[Pixels]]]:
            return ((i, record, pool.submit(self.read, record)) for i, record in itertools.islice(images, number))

        ahead = deque(submit((AHEAD + 1) * size))
        try:
            while ahead:
                taken = [ahead.popleft() for _ in range(min(size, len(ahead)))]
                yield [(i, record, future.result()) for i, record, future in taken]
                ahead.extend(submit(size))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # all is read, or nobody wants it

    def read(self, record: Record) -> Pixels:
        """The view to classify, or why there is none."""
        try:
            return view_pixels(record, self.towers.clip.preprocessing, None, 0, 0, 0)
        except InputError as error:
            return error

    def classify_pixels(
        self, numbers: Sequence[int], pixels: Sequence[UInt8[np.ndarray, "h w 3"]], mode: str = "mean"
    ) -> list[Answer]:
        """Classifies decoded images, of one caller or of many: from one to the greatest of `BATCH_SIZES`.

        Args:
            numbers: of each among its caller's images, as in `classify_all`; two may be alike.
        """
        return self._answers(self._classify(numbers, pixels, mode), mode)

    def _classify(
        self, numbers: Sequence[int], pixels: Sequence[UInt8[np.ndarray, "h w 3"]], mode: str
    ) -> Predictions:
        """Of a batch, filled up to one of a few sizes."""
        size = next(size for size in BATCH_SIZES if len(pixels) <= size)
        filled = np.stack([*pixels, *[pixels[-1]] * (size - len(pixels))])
        images = self.towers.clip.preprocessing.normalise(filled)
        if self.method.traits.reads == "features":
            images = np.asarray(self.towers.encode(images))
        return self._predict(images[: len(pixels)], np.array(numbers), size, mode)

    def _predict(
        self, images: Float[np.ndarray, "b *x"], numbers: Int[np.ndarray, "b"], size: int, mode: str
    ) -> Predictions:
        """Of images as the method reads them, `size` at a time; what is drawn once is kept."""
        if mode not in self._drawn:
            self._drawn[mode] = prediction.draw(
                *(self.method, self.variables, self.frozen.theta, self.text, mode),
                *(self.config.num_draws, self.config.seed),
            )
        return prediction.predict_drawn(
            *(self.method, self.variables, self._drawn[mode], images),
            batch_size=size,
            mesh=self.frozen.mesh,
            numbers=numbers,
        )


def _numbered(images: Iterable[Picture]) -> Iterator[tuple[int, Record]]:
    return ((i, make_record(image, i)) for i, image in enumerate(images))


def load_classifier(path: str | Path, clip: str = "") -> TrainedClassifier:
    """Loads what a run exported, and the CLIP that it names; compiled programs are kept in the cache folder.

    Args:
        path: the run's folder, here or in a bucket, its injector.safetensors, or `hub:owner/name`, as in
            `injector.load_run`.
        clip: where the weights are now, if not where they were.

    Raises:
        InputError: there is no such injector, or the CLIP is missing or another than it was trained on.
    """
    runtime.keep_programs()
    return assemble(injector.load_run(path), str(path), clip)


def assemble(exported: Exported, name: str, clip: str = "") -> TrainedClassifier:
    """Makes a classifier from what was exported; `name` is how messages refer to it.

    Raises:
        InputError: as in `load_classifier`.
    """
    config = dataclasses.replace(exported.config, clip=clip) if clip else exported.config
    # A run's shards may not divide the devices here; the towers are the same however they are split.
    devices = mesh.make_mesh(math.gcd(config.model_shards, jax.device_count()))
    frozen = frozen_halves.load_towers(config, devices) if config.clip else _given(exported, name, devices)
    if frozen.fingerprint != exported.clip_sha256:
        raise InputError(f"{name} was trained on other weights than {config.clip} holds")
    method = configs.make_method(config, frozen.towers)
    text = tasks.method_text(config, frozen, exported.class_names, config.dataset)
    check_variables(method, frozen.theta, text, exported.variables)
    return TrainedClassifier(
        exported.class_names, config, frozen, method, exported.variables, text, exported.doubts
    )


def _given(exported: Exported, name: str, devices: jax.sharding.Mesh) -> FrozenPack:
    """What belongs to features that were made elsewhere."""
    text, scale = exported.given.get("text"), exported.given.get("logit_scale")
    if (
        text is None
        or scale is None
        or text.ndim != 2
        or len(text) != len(exported.class_names)
        or scale.size != 1
    ):
        raise InputError(f"{name} was trained on features, and does not hold those of the classes: train it again")
    return FrozenPack(packs.text_pack(exported.class_names, text, float(scale), exported.clip_sha256), devices)


def check_variables(method: Method, theta: Parameters, text: Text, variables: Variables) -> None:
    """Raises InputError if variables do not fit the method in names, types and shapes."""
    classes, width = text.features.shape[1:]
    support = Support(np.zeros((2, classes, width), np.float32), np.arange(classes))
    if method.traits.sets_itself:  # from images of which each counts
        support = NO_SUPPORT
    expected = jax.eval_shape(lambda key: method.init(key, theta, text, support), jax.random.key(0))
    wanted, given = (flatten_dict(dict(tree._asdict()), sep="/") for tree in (expected, variables))
    if unlike := sorted(wanted.keys() ^ given.keys()):
        raise InputError(f"the injector is not one of this method: {listed(unlike)}")
    for name, x in wanted.items():
        fits = method.traits.keeps_support or x.shape == given[name].shape
        if not fits or x.dtype != given[name].dtype:
            raise InputError(f"the injector's {name} is {given[name].dtype}{list(given[name].shape)}, not {x}")
