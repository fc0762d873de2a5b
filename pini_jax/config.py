"""What a run is: one typed, frozen value, checked before anything is done with it."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections
from flax.traverse_util import flatten_dict

from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.data import templates
from pini_jax.data.datasets import sources
from pini_jax.data.transforms import Augment
from pini_jax.methods import registry
from pini_jax.methods.method import Method
from pini_jax.methods.objective import BOUNDS, Objective
from pini_jax.methods.optim import DIRECTIONS, SCHEDULES, Optim
from pini_jax.noise import sites


def _released_noise() -> dict[str, dict[str, Any]]:
    # With every option, so that the command line can set them.
    chosen = {"prompt_tokens": "table", "image_features": "cross_attention"}
    return sites.with_defaults({site: {"generator": name} for site, name in chosen.items()})


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
        method: `pini`, learned noise; or what it is compared with, a name of `methods.registry.METHODS`.
        options: of a method other than `pini`; the fields of its class.
        noise: {site: {"generator": name, option: value}}; the sites and generators of `noise.sites.SITES`. Of
            `pini` alone.
        objective: the loss.
        num_samples: k, draws of noise per image and step; of the prompt's noise there is always one.
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
    method: str = "pini"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    noise: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=_released_noise)
    objective: Objective = Objective()
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
    (
        "noise",
        lambda c: c.method != "pini" or len(c.noise) > 0,
        "at least one site (plain CLIP is method='zero_shot', and in every result)",
    ),
    ("num_samples", lambda c: c.num_samples >= 1, "at least 1"),
    (
        "num_samples",
        lambda c: c.num_samples == 1 or c.method != "pini" or bool(c.noise.keys() - {"prompt_tokens"}),
        "1 where there is no noise but the prompt's",
    ),
    ("objective.bound", lambda c: c.objective.bound in BOUNDS, "elbo or multi_sample"),
    ("objective.kl_weight", lambda c: 0 <= c.objective.kl_weight < math.inf, "0 or more"),
    ("objective.kl_scale", lambda c: 0 < c.objective.kl_scale < math.inf, "positive"),
    ("objective.temperature", lambda c: 0 < c.objective.temperature < math.inf, "positive"),
    ("objective.label_smoothing", lambda c: 0 <= c.objective.label_smoothing < 1, "in [0, 1)"),
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
        "zero_shot_template",
        lambda c: c.zero_shot_template == "coop" or not c.dataset.startswith("features:"),
        "left alone where features are given: their text features are fixed",
    ),
    ("optim.name", lambda c: c.optim.name in DIRECTIONS, "sgd, adam or adamw"),
    (
        "optim.schedule",
        lambda c: c.optim.schedule in SCHEDULES,
        "released, cosine or constant",
    ),
    ("optim.epsilon", lambda c: 0 < c.optim.epsilon < math.inf, "positive"),
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

    One key is not of a run: `population`, which makes many of it; see `population.members`.
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


def with_method(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The same data and towers with another method, set as its paper has it, and else by default.

    Its template is the zero-shot one's, unless its paper has one of its own.

    Raises:
        InputError: there is no such method.
    """
    config = ml_collections.ConfigDict(config)
    config.method, config.options = name, registry.options(name)
    own = to_dict(Config())
    for key in ("optim", "objective", "batch_size", "num_samples"):
        config[key] = own[key]
    if name != "pini":
        config.noise, config.template = {}, config.zero_shot_template
    config.update_from_flattened_dict(dict(registry.METHODS[name].paper))
    return config


def with_arguments(config: ml_collections.ConfigDict, arguments: str) -> ml_collections.ConfigDict:
    """Applies the `shots=4,optim.lr=0.01` of --config=configs/NAME.py:shots=4,optim.lr=0.01.

    `method=NAME` comes first, and brings the settings of that method's paper.

    Raises:
        InputError: an argument is no key=value, or its key is unknown.
    """
    given = [argument for argument in arguments.split(",") if argument]
    if methods := [argument for argument in given if argument.startswith("method=")]:
        config = with_method(config, methods[-1].partition("=")[2])
    known = flatten_dict(config.to_dict(), sep=".")
    for argument in given:
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
    config = dataclasses.replace(
        config,
        noise=config.noise if config.method == "pini" else {},
        options=registry.with_defaults(config.method, config.options),
    )
    for dataset in (config.dataset, *config.transfer):
        sources.of(dataset)
    for template in (config.template, config.zero_shot_template):
        templates.find(template, config.dataset)
    _check_needs(config)
    return dataclasses.replace(config, noise=sites.with_defaults(config.noise))


def make_method(config: Config, towers: registry.Towers = registry.NO_TOWERS) -> Method:
    """The method of a config over these towers.

    Raises:
        InputError: an unknown method, site, generator or option.
    """
    return registry.build(config.method, config.options, config.noise, config.objective, towers)


def _check_needs(config: Config) -> None:
    """Raises InputError where the data do not have what the method needs."""
    method = make_method(config)
    if config.method == "pini" and not sites.build(config.noise):
        raise InputError("config: noise has control=none at every site: plain CLIP is method='zero_shot'")
    towers = method.needs & {"prompts", "pixels"}
    if towers and config.dataset.startswith("features:"):
        wanting = [site for site in config.noise if site not in ("text_features", "image_features")]
        what = f"noise at {', '.join(wanting)}" if wanting else f"method={config.method!r}"
        raise InputError(f"config: {what} needs the towers, and a feature pack has none")
    if "prompts" in method.needs and len(templates.find(config.template, config.dataset)) > 1:
        raise InputError(f"config: template={config.template!r} must be one text, whose tokens the method changes")
    if method.is_per_class and (config.classes == "base" or config.transfer):
        what = "a table of text_features" if config.method == "pini" else f"method={config.method!r}"
        raise InputError(f"config: {what} belongs to the classes it was trained on: no others can be tested")


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
