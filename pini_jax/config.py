"""What a run is: one typed, frozen value, checked before anything is done with it."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
from flax.traverse_util import flatten_dict, unflatten_dict

from pini_jax.data import sources, templates
from pini_jax.data.transforms import Augment
from pini_jax.errors import InputError, did_you_mean
from pini_jax.noise import generators


@dataclasses.dataclass(frozen=True)
class Optim:
    """SGD for the trainables; the defaults are the released configuration.

    Attributes:
        lr: learning rate after warm-up.
        momentum: how much of the last update goes into the next.
        weight_decay: pull towards zero, added to the gradient.
        epochs: passes over the selected images.
        warmup_lr: learning rate of the first epoch.
    """

    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epochs: int = 100
    warmup_lr: float = 1e-5


def _released_noise() -> dict[str, dict[str, Any]]:
    # With every option, so that the command line can set them.
    chosen = {"prompt_tokens": "table", "image_features": "cross_attention"}
    return generators.with_defaults({site: {"generator": name} for site, name in chosen.items()})


@dataclasses.dataclass(frozen=True)
class Config:
    """A run. The defaults are the paper's released configuration.

    Attributes:
        dataset: what `data.sources` knows: `digits`, a dataset of the CoOp papers such as `oxford_pets`,
            `folder:PATH`, a table `PATH.csv` or `PATH.jsonl`, `tfds:NAME`, or features made elsewhere,
            `features:PATH.npz`.
        data_dir: folder that holds the datasets of the papers, and that relative paths start from.
        classes: `all`, or `base`: trained on the first half of the classes, tested on both halves.
        transfer: datasets that are tested besides, unseen in training.
        clip: what `clip.pretrained.load` accepts: `tiny_clip`, a folder, a weight file or a hub id.
        tokenizer: folder of the tokenizer's files; "" takes those beside the weights.
        image_size: pixels of the images; positions are interpolated. 0 takes the checkpoint's own size.
        dtype: of the towers: `float32`, `bfloat16`, or `auto` (float32 on CPU, bfloat16 on accelerators).
        template: prompt that is trained, or a name of `data.templates`; `{}` is the class name, and all before it
            gets the prompt noise.
        zero_shot_template: prompt of the zero-shot baseline, or a name, perhaps of an ensemble.
        shots: training images per class.
        seed: of the selection, the initialisation, the batches, the views and the noise.
        noise: {site: {"generator": name, option: value}}; the sites and generators of `noise.generators.SITES`.
        num_samples: k, draws of image noise per image and step.
        batch_size: images per step.
        views: augmented copies of every image whose features are cached; 0 makes fresh ones every epoch.
        augment: the distribution of the training views.
        optim: the optimiser.
        remat: whether the way back through a tower computes each layer again instead of keeping it: `always`,
            `never`, or `auto`, where keeping does not fit the memory at hand (on a CPU: beyond 32 MB, where it
            is no faster).
        model_shards: devices that share one copy of the towers, for towers too large for one; batches are split
            over groups of so many.
        num_draws: draws that `marginal` prediction averages over.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every: steps between checkpoints; a multiple of log_every.
    """

    dataset: str = "digits"
    data_dir: str = ""
    classes: str = "all"
    transfer: tuple[str, ...] = ()
    clip: str = "openai/clip-vit-base-patch16"
    tokenizer: str = ""
    image_size: int = 0
    dtype: str = "auto"
    template: str = "released"
    zero_shot_template: str = "coop"
    shots: int = 16
    seed: int = 1
    noise: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=_released_noise)
    num_samples: int = 1
    batch_size: int = 32
    views: int = 0
    augment: Augment = Augment()
    optim: Optim = Optim()
    remat: str = "auto"
    model_shards: int = 1
    num_draws: int = 32
    log_every: int = 20
    checkpoint_every: int = 100


# Values that cannot be: (what is read, whether it is fine, what it must be).
CHECKS = (
    ("shots", lambda c: c.shots >= 1, "at least 1"),
    ("noise", lambda c: len(c.noise) > 0, "at least one site (zero-shot accuracy is in every result)"),
    ("num_samples", lambda c: c.num_samples >= 1, "at least 1"),
    (
        "num_samples",
        lambda c: c.num_samples == 1 or "image_features" in c.noise,
        "1 where no noise is drawn per image",
    ),
    ("num_draws", lambda c: c.num_draws >= 1, "at least 1"),
    ("batch_size", lambda c: c.batch_size >= 1, "at least 1"),
    ("image_size", lambda c: c.image_size >= 0, "0 (the checkpoint's own) or more"),
    ("model_shards", lambda c: c.model_shards >= 1, "at least 1"),
    ("views", lambda c: c.views >= 0, "0 (fresh views) or more"),
    ("seed", lambda c: 0 <= c.seed < 2**32, "from 0 to 2**32 - 1"),
    ("dtype", lambda c: c.dtype in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16"),
    ("remat", lambda c: c.remat in ("auto", "always", "never"), "auto, always or never"),
    ("classes", lambda c: c.classes in ("all", "base"), "all or base"),
    (
        "clip",
        lambda c: bool(c.clip) != c.dataset.startswith("features:"),
        "empty where features are given, and else what names a CLIP",
    ),
    ("views", lambda c: c.views == 1 or not c.dataset.startswith("features:"), "1: a feature pack has no other"),
    (
        "transfer",
        lambda c: not (c.transfer and any(x.startswith("features:") for x in (c.dataset, *c.transfer))),
        "empty where features are given, and images otherwise",
    ),
    (
        "noise",
        lambda c: not (c.dataset.startswith("features:") and "prompt_tokens" in c.noise),
        "at image_features only where features are given: prompt_tokens needs the text tower",
    ),
    (
        "zero_shot_template",
        lambda c: c.zero_shot_template == "coop" or not c.dataset.startswith("features:"),
        "left alone where features are given: their text features are fixed",
    ),
    ("optim.lr", lambda c: 0 < c.optim.lr < math.inf, "positive"),
    ("optim.warmup_lr", lambda c: 0 <= c.optim.warmup_lr < math.inf, "0 or more"),
    ("optim.momentum", lambda c: 0 <= c.optim.momentum < 1, "in [0, 1)"),
    ("optim.weight_decay", lambda c: 0 <= c.optim.weight_decay < math.inf, "0 or more"),
    ("optim.epochs", lambda c: c.optim.epochs >= 1, "at least 1"),
    ("augment.scale", lambda c: 0 < c.augment.scale[0] <= c.augment.scale[1] <= 1, "a range within (0, 1]"),
    ("augment.ratio", lambda c: 0 < c.augment.ratio[0] <= c.augment.ratio[1] < math.inf, "a positive range"),
    ("augment.flip", lambda c: 0 <= c.augment.flip <= 1, "a probability"),
    ("log_every", lambda c: c.log_every >= 1, "at least 1"),
    (
        "checkpoint_every",
        lambda c: c.checkpoint_every >= 1 and c.log_every >= 1 and c.checkpoint_every % c.log_every == 0,
        "a multiple of log_every",
    ),
)


def default() -> ml_collections.ConfigDict:
    """The released configuration, to be changed by a file in `configs/`.

    One key is not of a run: `population`, which makes many of it; see `members`.
    """
    config = ml_collections.ConfigDict(to_dict(Config()))
    config.population = ml_collections.config_dict.placeholder(object)
    return config


def take_argument(arguments: str, key: str) -> tuple[str, str]:
    """The value of `key` among the arguments of a config file that cannot do without it, and the other arguments.

    Raises:
        InputError: it is not there.
    """
    pairs = [argument.partition("=") for argument in filter(None, arguments.split(","))]
    values = [value for name, _, value in pairs if name == key]
    if not values or not values[-1]:
        raise InputError(f"this config wants an argument: --config=configs/NAME.py:{key}=...")
    return values[-1], ",".join("".join(pair) for pair in pairs if pair[0] != key)


def with_arguments(config: ml_collections.ConfigDict, arguments: str) -> ml_collections.ConfigDict:
    """Applies the `shots=4,optim.lr=0.01` of --config=configs/NAME.py:shots=4,optim.lr=0.01.

    Raises:
        InputError: an argument is no key=value, or its key is unknown.
    """
    known = flatten_dict(config.to_dict(), sep=".")
    for argument in filter(None, arguments.split(",")):
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            raise InputError(f"argument {argument!r} is no key=value of a known key{did_you_mean(key, known)}")
        with contextlib.suppress(ValueError, SyntaxError):  # what is no literal is a string
            value = ast.literal_eval(value)
        config.update_from_flattened_dict({key: value})
    return config


def to_dict(config: Config) -> dict:
    """Plain dictionaries, as in config.json."""
    return dataclasses.asdict(config)


def config_hash(config: Config) -> str:
    """SHA-256 of all settings: two runs with the same hash are the same run."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()


def resolve(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """Checks every key, type and value, and makes the run's config.

    Raises:
        InputError: all problems at once.
    """
    problems: list[str] = []
    if isinstance(settings, ml_collections.ConfigDict):
        settings = settings.to_dict()
    if settings.get("population"):
        raise InputError("config: population makes several runs; `members` reads it")
    settings = {key: value for key, value in settings.items() if key != "population"}
    config = _resolve(Config, settings, "", problems)
    if not problems:
        problems = [
            f"{key}={_value(config, key)!r} must be {wanted}" for key, fine, wanted in CHECKS if not fine(config)
        ]
    if problems:
        raise InputError("config: " + "; ".join(problems))
    generators.build(config.noise)
    for dataset in (config.dataset, *config.transfer):
        sources.of(dataset)
    for template in (config.template, config.zero_shot_template):
        templates.find(template, config.dataset)
    if len(templates.find(config.template, config.dataset)) > 1:
        raise InputError(f"config: template={config.template!r} must be one text: noise belongs to its tokens")
    return dataclasses.replace(config, noise=generators.with_defaults(config.noise))


class Member(NamedTuple):
    """A run of a population.

    Attributes:
        values: by which it differs from the others, by their keys.
    """

    values: Mapping[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """Of its folder, such as shots_4-seed_1; nothing where there is no population."""
        return "-".join(f"{key}_{value}".replace("/", "_") for key, value in self.values.items())


def members(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> list[Member]:
    """The run of these settings; or, where `population` is {key: (value, ...), ...}, one of every combination.

    Raises:
        InputError: all problems at once.
    """
    if isinstance(settings, ml_collections.ConfigDict):
        settings = settings.to_dict()
    population = settings.get("population") or {}
    one = to_dict(resolve({key: value for key, value in settings.items() if key != "population"}))
    known = flatten_dict(one, sep=".")
    if not isinstance(population, Mapping):
        raise InputError(f"population={population!r} must be {{key: (value, ...), ...}}")
    for key, values in population.items():
        if key not in known:
            raise InputError(f"population has no key {key!r}{did_you_mean(str(key), known)}")
        if not isinstance(values, (tuple, list)) or not values or len(set(map(repr, values))) < len(values):
            raise InputError(f"population: {key!r} must have values that differ, not {values!r}")
    combinations = [
        dict(zip(population, values, strict=True)) for values in itertools.product(*population.values())
    ]
    return [Member(values, resolve(unflatten_dict(known | values, sep="."))) for values in combinations]


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _resolve(kind: type, settings: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    types = typing.get_type_hints(kind)
    values = {}
    for key, value in settings.items():
        if key not in types:
            problems.append(f"unknown key {prefix + key!r}{did_you_mean(key, types)}")
        elif dataclasses.is_dataclass(types[key]) and isinstance(value, Mapping):
            values[key] = _resolve(types[key], value, f"{prefix}{key}.", problems)
        elif (converted := _convert(types[key], value)) is None:
            problems.append(f"{prefix}{key}={value!r} must be {_describe(types[key])}")
        else:
            values[key] = converted
    return kind(**values)


def _convert(kind: Any, value: Any) -> Any:
    """`value` as `kind`, or None where it is something else."""
    origin = typing.get_origin(kind)
    if kind is float:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if origin is tuple:
        kinds = typing.get_args(kind)
        if kinds[1:] == (...,) and isinstance(value, (tuple, list)):
            kinds = kinds[:1] * len(value)
        fits = isinstance(value, (tuple, list)) and len(value) == len(kinds)
        items = [_convert(k, v) for k, v in zip(kinds, value, strict=True)] if fits else [None]
        return None if None in items else tuple(items)
    if isinstance(value, Mapping):
        is_mapping = origin is not None and issubclass(origin, Mapping)
        return dict(value) if is_mapping else None
    return value if isinstance(value, origin or kind) and not isinstance(value, bool) else None


def _describe(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)
