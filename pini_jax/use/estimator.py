"""A scikit-learn classifier over the one training and the one prediction.

from pini_jax import Classifier

classifier = Classifier(clip="tiny_clip").fit(["a/1.png", "b/1.png"], ["a", "b"])
classifier.predict(["a/2.png"])
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from pini_jax import config as configs
from pini_jax.config import Config
from pini_jax.core import extras, progress, runtime
from pini_jax.core.errors import InputError
from pini_jax.core.wording import listed
from pini_jax.data.datasets import memory
from pini_jax.data.datasets.memory import Picture
from pini_jax.data.datasets.packs import LOGIT_SCALE, Pack
from pini_jax.data.datasets.records import Dataset
from pini_jax.runs import experiment, injector
from pini_jax.use import classifier as classifiers

base = extras.require("sklearn.base", "sklearn")
multiclass = extras.require("sklearn.utils.multiclass", "sklearn")
validation = extras.require("sklearn.utils.validation", "sklearn")

# Parameters that are settings of a run; where one is None the method's own stays.
SETTINGS = (
    *("clip", "tokenizer", "image_size", "dtype", "template", "zero_shot_template", "shots", "seed", "options"),
    *("noise", "objective", "num_samples", "batch_size", "views", "augment", "optim", "num_draws", "plugins"),
)
OF_STEPS = ("noise", "objective", "optim", "num_samples", "batch_size")  # the recipe has no steps
OF_IMAGES = {"clip", "tokenizer", "image_size", "template", "zero_shot_template", "views", "augment"}


class Rows(NamedTuple):
    """The classes of a training set.

    Attributes:
        names: what prompts call them.
        places: where `class_names` and `text_features` have them.
    """

    names: list[str]
    places: list[int]


class Classifier(base.ClassifierMixin, base.BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Few-shot classification of images, or of features, by a frozen CLIP and learned noise.

    Images are a list of paths, PIL images, bytes of image files or uint8 arrays [h w 3], or one array [b h w 3];
    features are an array [b e]. The same images and settings give what `pini train` gives, to the bit.

    Args:
        clip, tokenizer, image_size, dtype, template, zero_shot_template, seed, method, options, noise, objective,
            num_samples, batch_size, views, augment, optim, num_draws, plugins: settings of a run, as in
            `pini_jax.Config`; mappings change what they name, but for `noise`, which is taken whole. None leaves
            the method's defaults. With features, settings of images have no effect. A method of None is the recipe
            of `configs/best.py`, which sets itself; or `pini`, if a setting is given that only training by
            steps has: noise, objective, optim, num_samples or batch_size.
        class_names: the names of the classes in prompts: {class: name}; or a sequence, which classes that are
            whole numbers index, and of which other classes are members. None uses the classes as they are.
        text_features: with features, those of the classes' texts [c e], in the order of `class_names`, or else of
            the sorted classes. None uses the mean of each class's training features.
        logit_scale: with features, exp(s), the inverse temperature.
        shots: images of each class to train on, drawn by `seed`; None for all of them.
        mode: how noise is used in prediction: `mean`, `sample` or `marginal`.
        workdir: folder that keeps the run; `fit` with the same images and settings resumes it. None keeps it in
            memory.
        verbose: whether progress bars are shown.

    Attributes:
        classes_: the sorted classes.
        n_features_in_: channels of the features, if it was given features.
        exported_: what a run exports.
        trained_: what classifies.
    """

    def __init__(
        self,
        clip: str = Config.clip,
        method: str | None = None,
        *,
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        template: str | None = None,
        zero_shot_template: str | None = None,
        text_features: np.ndarray | None = None,
        logit_scale: float = LOGIT_SCALE,
        shots: int | None = None,
        seed: int = 1,
        options: Mapping[str, Any] | None = None,
        noise: Mapping[str, Mapping[str, Any]] | None = None,
        objective: Mapping[str, Any] | None = None,
        optim: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        num_samples: int | None = None,
        views: int | None = 8,
        augment: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
        image_size: int | None = None,
        dtype: str | None = None,
        num_draws: int | None = None,
        plugins: Sequence[str] | None = None,
        mode: str = "mean",
        workdir: str | Path | None = None,
        verbose: bool = False,
    ):
        self.clip = clip
        self.method = method
        self.class_names = class_names
        self.template = template
        self.zero_shot_template = zero_shot_template
        self.text_features = text_features
        self.logit_scale = logit_scale
        self.shots = shots
        self.seed = seed
        self.options = options
        self.noise = noise
        self.objective = objective
        self.optim = optim
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.views = views
        self.augment = augment
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.dtype = dtype
        self.num_draws = num_draws
        self.plugins = plugins
        self.mode = mode
        self.workdir = workdir
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Classifier:
        """Trains on labelled images, or features; `y` holds names or numbers.

        Raises:
            InputError: they, or the settings, cannot be used; the message says why.
        """
        runtime.keep_programs()
        pictures = as_pictures(X)
        if pictures is None:
            X, y = validation.validate_data(self, X, y)
        else:
            y = validation.column_or_1d(y, warn=True)
            validation.check_consistent_length(pictures, y)
        with warnings.catch_warnings():  # of many classes among few images, which is what this is for
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            multiclass.check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        rows = rows_of(self.classes_.tolist(), self.class_names)
        data: Dataset | Pack
        if pictures is None:
            data = self._pack(X, labels, rows)
            name = data.findings.dataset.name
        else:
            data = memory.image_dataset(pictures, labels.tolist(), rows.names)
            name = data.name
        config = self._config(name, int(np.bincount(labels).max()), has_images=pictures is not None)
        self.exported_ = _train(data, name, config, self.workdir, self.verbose)
        self.trained_ = classifiers.assemble(self.exported_, type(self).__name__)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each image."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(-1)]

    def predict_proba(self, X: Any) -> Float[np.ndarray, "b c"]:
        """p(class | image), in the order of `classes_`.

        Raises:
            InputError: images cannot be read, all of which are named; or it was trained on features, and these are
                images, or the other way round.
        """
        validation.check_is_fitted(self)
        pictures = as_pictures(X)
        if pictures is not None:
            self.trained_.towers  # noqa: B018, refuses images where there are none
            return self.trained_(pictures, self.mode)
        if self.exported_.config.clip:
            raise InputError("it was trained on images: paths, PIL images or uint8 arrays [h w 3] are classified")
        return self.trained_(validation.validate_data(self, X, reset=False), self.mode)

    def save(self, path: str | Path) -> None:
        """Writes what a run exports as one file, for `load`, `pini predict` and `load_classifier`.

        Raises:
            InputError: the classes are neither texts nor numbers.
        """
        validation.check_is_fitted(self)
        labels = self.classes_.tolist()
        if odd := {type(label).__name__ for label in labels if not isinstance(label, (str, int, float))}:
            raise InputError(
                f"classes of type {listed(sorted(odd))} cannot be saved: call them by texts or numbers"
            )
        own = () if labels == [*self.exported_.class_names] else tuple(labels)
        injector.save_injector(Path(path), self.exported_._replace(labels=own))

    @classmethod
    def load(cls, path: str | Path, clip: str = "") -> Classifier:
        """Loads what `save` wrote, a run exported, or `pini push` pushed; arguments as in `load_classifier`."""
        runtime.keep_programs()
        exported = injector.load_run(path)
        config, labels = exported.config, exported.labels or exported.class_names
        self = cls(method=config.method, **{key: getattr(config, key) for key in SETTINGS})
        self.class_names = dict(zip(labels, exported.class_names, strict=True))
        if exported.given:
            text, self.logit_scale = exported.given["text"], float(exported.given["logit_scale"])
            self.text_features = None if "stands_in" in exported.given else text
            self.n_features_in_ = text.shape[1]
        self.classes_, self.exported_ = np.array(labels), exported
        self.trained_ = classifiers.assemble(exported, str(path), clip)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "trained_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "exported_" in state:
            self.trained_ = classifiers.assemble(self.exported_, type(self).__name__)

    def _pack(self, X: np.ndarray, labels: Int[np.ndarray, "b"], rows: Rows) -> Pack:
        """The features, with those of the classes' texts where they are given."""
        if X.shape[1] == 1:
            raise InputError("X has 1 feature(s): features are directions, which takes two or more")
        text = None if self.text_features is None else np.asarray(self.text_features)
        if text is not None:
            if text.ndim != 2 or len(text) <= max(rows.places) or text.shape[1] != X.shape[1]:
                wanted = f"[{max(rows.places) + 1} or more, {X.shape[1]}]"
                raise InputError(f"text_features has shape {list(text.shape)}, where {wanted} is needed")
            text = text[rows.places]
        return memory.feature_dataset(X, labels.tolist(), rows.names, text, self.logit_scale)

    def _method_settings(self) -> dict[str, Any]:
        """Settings of a run as the method has them."""
        default = configs.default()
        takes_steps = any(getattr(self, key) is not None for key in OF_STEPS)
        by_itself = "pini" if takes_steps else "empirical_bayes"
        name = by_itself if self.method is None else self.method
        return (default if name == "pini" else configs.with_method(default, name)).to_dict()

    def _config(self, dataset: str, most: int, has_images: bool) -> Config:
        """The run's; `most` images there are of a class."""
        settings = self._method_settings()
        settings |= {"dataset": dataset, "shots": most}
        if not has_images:
            settings |= {"clip": "", "views": 1}
            settings["noise"].pop("prompt_tokens", None)
            settings["template"] = settings["zero_shot_template"] = "coop"
        for key in SETTINGS:
            value = getattr(self, key)
            if value is None or (key in OF_IMAGES and not has_images):
                continue
            merges = key != "noise" and isinstance(value, Mapping)
            settings[key] = {**settings[key], **value} if merges else value
        return configs.resolve(settings)


def _train(
    data: Dataset | Pack, name: str, config: Config, workdir: str | Path | None, verbose: bool
) -> injector.Exported:
    """What a run on data in memory exports."""
    with ExitStack() as stack:
        folder = Path(workdir or stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(memory.held(name, data))
        stack.enter_context(progress.hidden(not verbose))
        experiment.train_and_evaluate(config, folder)
        return injector.load_injector(folder / injector.FILE)


def as_pictures(X: Any) -> list[Picture] | None:
    """X as a list of images; None where it is something else, such as features."""
    if len(getattr(X, "shape", (0,))) not in (1, 4) or not hasattr(X, "__iter__") or isinstance(X, (str, bytes)):
        return None
    items = list(X)
    first = items[0] if items else None
    is_picture = isinstance(first, (str, Path, bytes, Image.Image)) or len(getattr(first, "shape", ())) == 3
    return items if is_picture else None


def rows_of(classes: Sequence[Any], class_names: Sequence[str] | Mapping[Any, str] | None) -> Rows:
    """The names and places of the sorted classes.

    Raises:
        InputError: a class has no name.
    """
    if class_names is None:
        return Rows([str(x) for x in classes], [*range(len(classes))])
    if isinstance(class_names, Mapping):
        places = {key: place for place, key in enumerate(class_names)}
        names = [*class_names.values()]
    else:
        names = [*class_names]
        whole = all(isinstance(x, int) and not isinstance(x, bool) for x in classes)
        places = {place if whole else name: place for place, name in enumerate(names)}
    if missing := [x for x in classes if x not in places]:
        raise InputError(f"class_names has no name of: {listed(map(str, missing))}")
    return Rows([str(names[places[x]]) for x in classes], [places[x] for x in classes])
