"""What a run is: one typed, frozen value, checked before anything is done with it."""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
from flax.traverse_util import flatten_dict

from pini_jax import plugins
from pini_jax.core import options
from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.core.options import at_least, one_of, option
from pini_jax.core.paths import check_address
from pini_jax.data import templates
from pini_jax.data.datasets import sources
from pini_jax.data.transforms import Augment
from pini_jax.methods import registry
from pini_jax.methods.method import Method
from pini_jax.methods.objective import Objective
from pini_jax.methods.optim import NUMBERS, Optim, num_steps
from pini_jax.noise import sites


def _released_noise() -> dict[str, dict[str, Any]]:
    # With every option, so that the command line can set them.
    chosen = {"prompt_tokens": "table", "image_features": "cross_attention"}
    return sites.noise_with_defaults({site: {"generator": name} for site, name in chosen.items()})


@dataclasses.dataclass(frozen=True)
class Config:
    """A run. The defaults are the paper's released configuration.

    Attributes:
        dataset: what `data.datasets.sources` knows: `digits`, a dataset of the CoOp papers such as `oxford_pets`,
            `folder:PATH`, a table `PATH.csv` or `PATH.jsonl`, `tfds:NAME`, or precomputed features,
            `features:PATH.npz`.
        data_dir: folder that holds the datasets of the papers, and that relative paths start from.
        max_unreadable: how many images of one's own folder or table may be left out because they cannot be read;
            -1 for the greater of 5 and 1 %.
        classes: `all`, or `base`: trained on the first half of the classes, tested on both halves.
        transfer: further datasets to test on, unseen in training.
        clip: what `load_clip` accepts: `tiny_clip`, a folder, a weight file or a hub id.
        tokenizer: folder of the tokenizer's files; "" takes those beside the weights.
        image_size: pixels of the images; positions are interpolated. 0 takes the checkpoint's own size.
        dtype: of the towers: `float32`, `bfloat16`, or `auto` (float32 on CPU, bfloat16 on accelerators).
        template: the prompt for training, or a name in `data.templates`; `{}` is the class name, and all before
            it gets the prompt noise.
        zero_shot_template: prompt of the zero-shot baseline, or a name, perhaps of an ensemble.
        shots: training images per class.
        seed: of the selection, the initialisation, the batches, the views and the noise.
        method: `pini` (learned noise), or another name in `methods.registry.METHODS`.
        options: options of a method other than `pini`; the fields of its class.
        noise: {site: {"generator": name, option: value}}, with the sites and generators of `noise.sites.SITES`;
            for `pini` only.
        objective: the loss.
        num_samples: k, draws of noise per image and step; of the prompt's noise there is always one.
        batch_size: images per step.
        views: augmented copies of every image whose features are cached; 0 makes fresh ones every epoch.
        augment: the distribution of the training views.
        optim: the optimiser.
        remat: whether layers are recomputed in the backward pass instead of stored: `always`, `never`, or `auto`,
            if storing does not fit the memory at hand (on a CPU: beyond 32 MB, where it is no faster).
        model_shards: devices that share one copy of the towers, for towers too large for one; batches are split
            over groups of that many devices.
        num_draws: draws that `marginal` prediction averages over.
        plugins: modules of one's own that register what other settings name: paths of files, entry points of the
            group `pini_jax.plugins`, or modules.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every: steps between checkpoints; a multiple of log_every.
    """

    dataset: str = "digits"
    data_dir: str = ""
    max_unreadable: int = at_least(-1, -1, "the greater of 5 and 1 %")
    classes: str = one_of(("all", "base"), "all")
    transfer: tuple[str, ...] = ()
    clip: str = "openai/clip-vit-base-patch16"
    tokenizer: str = ""
    image_size: int = at_least(0, 0, "the checkpoint's own")
    dtype: str = one_of(("auto", "float32", "bfloat16"), "auto")
    template: str = "released"
    zero_shot_template: str = "coop"
    shots: int = at_least(1, 16)
    seed: int = option(1, "from 0 to 2**32 - 1", lambda x: 0 <= x < 2**32)
    method: str = "pini"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    noise: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=_released_noise)
    objective: Objective = Objective()
    num_samples: int = at_least(1, 1)
    batch_size: int = at_least(1, 32)
    views: int = at_least(0, 0, "fresh views")
    augment: Augment = Augment()
    optim: Optim = Optim()
    remat: str = one_of(("auto", "always", "never"), "auto")
    model_shards: int = at_least(1, 1)
    num_draws: int = at_least(1, 32)
    plugins: tuple[str, ...] = ()
    log_every: int = at_least(1, 20)
    checkpoint_every: int = at_least(1, 100)

    @property
    def hash(self) -> str:
        """SHA-256 of all settings: two runs with the same hash are the same run."""
        return hashlib.sha256(json.dumps(to_dict(self), sort_keys=True).encode()).hexdigest()

    @property
    def steps_per_shot(self) -> int:
        """Steps per shot of the method where `optim.epochs` is 0; 0 if it has none."""
        return self.options.get("steps_per_shot", 0)

    def num_steps(self, per_epoch: int) -> int:
        """Number of training steps, given the steps per epoch."""
        return num_steps(self.optim.epochs, per_epoch, self.steps_per_shot, self.shots)


def _conflicts(c: Config) -> Iterator[tuple[str, str]]:
    """Where settings that are each fine do not go together: a key, and what its value must be."""
    given_features = not sources.has_images(c.dataset)
    if registry.makes_noise(c.method):
        if not c.noise:
            yield "noise", "at least one site (plain CLIP is method='zero_shot', and in every result)"
        elif c.num_samples > 1 and not c.noise.keys() - {"prompt_tokens"}:
            yield "num_samples", "1 where there is no noise but the prompt's"
    if bool(c.clip) == given_features:
        yield "clip", "empty where features are given, and else what names a CLIP"
    if given_features and c.views != 1:
        yield "views", "1: a feature pack has no other"
    if c.transfer and not all(map(sources.has_images, (c.dataset, *c.transfer))):
        yield "transfer", "empty where features are given, and images otherwise"
    if given_features and c.zero_shot_template != "coop":
        yield "zero_shot_template", "left alone where features are given: their text features are fixed"
    if c.checkpoint_every % c.log_every:
        yield "checkpoint_every", "a multiple of log_every"


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
        raise InputError(f"this config wants an argument: --config=NAME:{key}=...")
    return values[-1], ",".join("".join(pair) for pair in pairs if pair[0] != key)


def with_method(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The config's data and towers with another method, which has its paper's settings and otherwise the defaults.

    Its template is the zero-shot one's, unless its paper has one of its own.

    Raises:
        InputError: there is no such method.
    """
    config = copy.deepcopy(config)
    config.method, config.options = name, registry.method_options(name)
    own = to_dict(Config())
    for key in ("optim", "objective", "batch_size", "num_samples"):
        config[key] = own[key]
    if not registry.makes_noise(name):
        config.noise, config.template = {}, config.zero_shot_template
    method = registry.METHODS[name]
    config.update_from_flattened_dict(dict(method.paper) | (dict(method.paper_of_images) if config.clip else {}))
    return config


def with_arguments(config: ml_collections.ConfigDict, arguments: str) -> ml_collections.ConfigDict:
    """Applies the `shots=4,optim.lr=0.01` of --config=configs/NAME.py:shots=4,optim.lr=0.01.

    `method=NAME` comes first, and brings the settings of that method's paper.

    Raises:
        InputError: an argument is no key=value, its key is unknown, or its value is of another type.
    """
    given = [argument for argument in arguments.split(",") if argument]
    if methods := [argument for argument in given if argument.startswith("method=")]:
        config = with_method(config, methods[-1].partition("=")[2])
    known = flatten_dict(config.to_dict(), sep=".")
    for argument in given:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            raise InputError(f"argument {argument!r} is no key=value of a known key{did_you_mean(key, known)}")
        try:
            config.update_from_flattened_dict({key: _literal(value)})
        except (TypeError, ValueError):
            wanted = type(known[key]).__name__
            raise InputError(f"argument {argument!r}: {key} is of type {wanted}, such as {known[key]!r}") from None
    return config


def _literal(text: str) -> Any:
    """What Python reads in a text; what is no literal is a string."""
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dictionaries, as in config.json."""
    return dataclasses.asdict(config)


def resolve(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """Checks every key, type and value, and makes the run's config.

    Raises:
        InputError: something is wrong; problems of one kind are named together.
    """
    if isinstance(settings, ml_collections.ConfigDict):
        settings = settings.to_dict()
    if settings.get("population"):
        raise InputError("config: population makes several runs; `members` reads it")
    problems: list[str] = []
    config = _resolve(Config, {key: value for key, value in settings.items() if key != "population"}, "", problems)
    if problems := problems or [*options.broken_rules(config)]:
        raise InputError("config: " + "; ".join(problems))
    for key in ("data_dir", "clip", "tokenizer", "dataset"):
        check_address(key, getattr(config, key))
    for dataset in config.transfer:
        check_address("transfer", dataset)
    plugins.load_plugins(config.plugins)
    for dataset in (config.dataset, *config.transfer):
        sources.kind_of(dataset)
    if problems := [f"{key}={getattr(config, key)!r} must be {wanted}" for key, wanted in _conflicts(config)]:
        raise InputError("config: " + "; ".join(problems))
    for template in (config.template, config.zero_shot_template):
        templates.find_templates(template, config.dataset)
    config = dataclasses.replace(
        config,
        noise=config.noise if registry.makes_noise(config.method) else {},
        options=registry.options_with_defaults(config.method, config.options),
    )
    _check_traits(config)
    return dataclasses.replace(config, noise=sites.noise_with_defaults(config.noise))


# What a run's other settings may be does not depend on these; it does on epochs, where 0 is of some methods alone.
INDEPENDENT = ("shots", "seed", *(f"optim.{name}" for name in NUMBERS if name != "epochs"))


def problems_of_number(key: str, value: Any) -> list[str]:
    """What is wrong with the value of an `INDEPENDENT` setting."""
    branch, _, name = key.rpartition(".")
    kind = Optim if branch else Config
    return [*options.problems_of(kind, {name: value}, [name], "", f"{branch}." if branch else "")]


def with_numbers(config: Config, settings: Mapping[str, Any]) -> Config:
    """A config with other values of some `INDEPENDENT` settings: as `resolve`, which takes much longer.

    Raises:
        InputError: all problems at once.
    """
    if problems := [problem for key, value in settings.items() for problem in problems_of_number(key, value)]:
        raise InputError("config: " + "; ".join(problems))
    own = {key: value for key, value in settings.items() if "." not in key}
    optim = {key.removeprefix("optim."): value for key, value in settings.items() if "." in key}
    numbers = {key: options.convert(type(getattr(config.optim, key)), value) for key, value in optim.items()}
    return dataclasses.replace(config, **own, optim=dataclasses.replace(config.optim, **numbers))


def make_method(config: Config, towers: registry.Towers = registry.NO_TOWERS) -> Method:
    """The method of a config over these towers.

    Raises:
        InputError: an unknown method, site, generator or option.
    """
    return registry.build_method(config.method, config.options, config.noise, config.objective, towers)


def _check_traits(config: Config) -> None:
    """Raises InputError where the data do not have what the method needs, or it cannot do what is asked of it."""
    traits, noisy = make_method(config).traits, registry.makes_noise(config.method)
    if noisy and not sites.build_noise(config.noise):
        raise InputError("config: noise has control=none at every site: plain CLIP is method='zero_shot'")
    if not config.optim.epochs and not config.steps_per_shot:
        raise InputError(f"config: optim.epochs=0 must be at least 1: {config.method} has no steps_per_shot")
    if traits.needs_towers and not sources.has_images(config.dataset):
        wanting = [site for site in config.noise if sites.SITES[site].needs]
        what = f"noise at {', '.join(wanting)}" if wanting else f"method={config.method!r}"
        raise InputError(f"config: {what} needs the towers, and a feature pack has none")
    if traits.encodes_prompts and len(templates.find_templates(config.template, config.dataset)) > 1:
        raise InputError(f"config: template={config.template!r} must be one text, whose tokens the method changes")
    if traits.is_per_class and (config.classes == "base" or config.transfer):
        what = "a table of text_features" if noisy else f"method={config.method!r}"
        raise InputError(f"config: {what} belongs to the classes it was trained on: no others can be tested")


def _resolve(kind: type, settings: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    types = typing.get_type_hints(kind)
    values = {}
    for key, value in settings.items():
        if key not in types:
            problems.append(f"unknown key {prefix + key!r}{did_you_mean(key, types)}")
        elif dataclasses.is_dataclass(types[key]) and isinstance(value, Mapping):
            values[key] = _resolve(types[key], value, f"{prefix}{key}.", problems)
        elif (converted := options.convert(types[key], value)) is None:
            problems.append(f"{prefix}{key}={value!r} must be {options.kind_in_words(types[key])}")
        else:
            values[key] = converted
    return kind(**values)
