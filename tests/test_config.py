"""A config is checked whole before anything is done with it."""

import dataclasses
import hashlib
import json

import ml_collections
import pytest

from pini_jax import config as configs
from pini_jax.config import Config, Optim
from pini_jax.core.errors import InputError
from pini_jax.data.transforms import Augment
from pini_jax.methods.objective import Objective
from pini_jax.runs import population


def message(settings):
    with pytest.raises(InputError) as error:
        configs.resolve(settings)
    return str(error.value)


# ------------------------------------------------------------------------------------------------ keys and types


def test_the_defaults_are_the_released_configuration():
    config = configs.resolve({})
    assert config == Config()
    assert config.optim == Optim(
        "sgd", "released", lr=1e-3, momentum=0.9, weight_decay=5e-4, epochs=100, warmup_lr=1e-5
    )
    assert config.augment == Augment((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
    assert (config.batch_size, config.num_samples, config.views, config.shots) == (32, 1, 0, 16)
    assert (config.template, config.zero_shot_template) == ("released", "coop")
    assert (config.method, config.options, config.objective) == ("pini", {}, Objective("elbo", 0.0, 1.0, 0.0))
    learned = {"control": "learned", "level": 0.0}
    attention = {"reduction": 1, "heads": 1, "scaled": False, "sigma": "abs", "initial_scale": 1.0}
    assert dict(config.noise) == {
        "prompt_tokens": {"generator": "table", "sigma": "free", "initial_scale": 0.02} | learned,
        "image_features": {"generator": "cross_attention"} | attention | learned,
    }


def test_a_config_dict_is_as_good_as_a_mapping():
    settings = configs.default()
    assert isinstance(settings, ml_collections.ConfigDict)
    settings.optim.lr = 0.5
    settings.augment.scale = (0.3, 0.4)
    del settings.noise["prompt_tokens"]
    resolved = configs.resolve(settings)
    assert resolved == configs.resolve(settings.to_dict())
    assert resolved.optim.lr == 0.5 and resolved.augment.scale == (0.3, 0.4)
    assert set(resolved.noise) == {"image_features"}


def test_what_json_wrote_resolves_to_the_same():
    """config.json knows lists, no tuples."""
    config = configs.resolve({"seed": 5, "augment": {"scale": [0.5, 1.0]}, "optim": {"lr": 0.1}})
    assert configs.resolve(json.loads(json.dumps(configs.to_dict(config)))) == config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optim": {"learning_rate": 1}}, "unknown key 'optim.learning_rate'"),
        ({"optim": {"momentom": 1}}, "unknown key 'optim.momentom'; did you mean 'momentum'?"),
        ({"shot": 1}, "unknown key 'shot'; did you mean 'shots'?"),
        ({"qqq": 1}, "unknown key 'qqq'; known: dataset, data_dir,"),
        ({"noise": {"image_feature": {"generator": "table"}}}, "did you mean 'image_features'?"),
        ({"noise": {"prompt_tokens": {"generator": "table", "initial_scal": 1}}}, "did you mean 'initial_scale'?"),
    ],
    ids=str,
)
def test_unknown_keys_are_refused(settings, expected):
    assert expected in message(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"shots": "16"},
        {"shots": 1.5},
        {"shots": True},
        {"shots": None},
        {"seed": [1]},
        {"clip": 3},
        {"template": ["a {}"]},
        {"optim": {"lr": "1e-3"}},
        {"optim": {"lr": True}},
        {"optim": {"epochs": 2.0}},
        {"augment": {"scale": 0.5}},
        {"augment": {"scale": [0.1, 0.2, 0.3]}},
        {"augment": {"scale": ["a", "b"]}},
        {"augment": {"flip": [0.5]}},
        {"noise": "table"},
        {"noise": {}},
        {"noise": {"prompt_tokens": "table"}},
        {"optim": 3},
        {"augment": None},
    ],
    ids=str,
)
def test_other_types_are_refused(settings):
    ((key, inner),) = settings.items()
    key = ".".join([key, *inner]) if isinstance(inner, dict) else key
    assert f"{key}=" in message(settings) or f"{key} " in message(settings)


def test_whole_numbers_are_numbers():
    resolved = configs.resolve({"optim": {"lr": 1}, "augment": {"scale": [1, 1]}})
    assert resolved.optim.lr == 1.0 and type(resolved.optim.lr) is float
    assert [type(x) for x in resolved.augment.scale] == [float, float]


def test_all_problems_are_listed_at_once():
    """Of keys and types first; of values once all types are right."""
    found = message({"shot": 1, "seed": "x", "optim": {"lr": [], "speed": 2}, "augment": {"flip": "no"}})
    for problem in ("'shot'", "seed='x'", "optim.lr=[]", "'optim.speed'", "augment.flip='no'"):
        assert problem in found
    found = message({"shots": 0, "batch_size": -1, "optim": {"lr": 0.0}, "dtype": "float64"})
    for problem in ("shots=0", "batch_size=-1", "optim.lr=0.0", "dtype='float64'"):
        assert problem in found


# ------------------------------------------------------------------------------------------------ values

NAN, INF = float("nan"), float("inf")
IMPOSSIBLE = {
    "shots": [0, -1],
    "num_samples": [0],
    "num_draws": [0],
    "batch_size": [0, -32],
    "views": [-1],
    "seed": [-1, 2**32],
    "dtype": ["float16", ""],
    "classes": ["new", ""],
    "clip": [""],
    "optim.lr": [0.0, -1.0, NAN, INF],
    "optim.warmup_lr": [-1e-5, NAN, INF],
    "optim.momentum": [-0.1, 1.0, NAN],
    "optim.weight_decay": [-1e-4, NAN, INF],
    "optim.epochs": [0, -1],
    "optim.name": ["momentum", ""],
    "optim.schedule": ["linear", ""],
    "optim.epsilon": [0.0, -1e-8, INF],
    "objective.bound": ["iwae", ""],
    "objective.kl_weight": [-0.1, INF],
    "objective.kl_scale": [0.0, -1.0],
    "objective.label_smoothing": [-0.1, 1.0],
    "augment.scale": [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (NAN, 1.0)],
    "augment.ratio": [(0.0, 1.0), (2.0, 1.0), (0.5, INF)],
    "augment.flip": [-0.1, 1.1, NAN],
    "log_every": [0],
    "checkpoint_every": [0, 30],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in IMPOSSIBLE.items() for v in values], ids=str)
def test_impossible_values_are_refused(key, value):
    *branch, leaf = key.split(".")
    settings = {branch[0]: {leaf: value}} if branch else {leaf: value}
    assert f"{key}={value!r} must be" in message(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"views": 0},
        {"optim": {"momentum": 0.0, "weight_decay": 0.0, "warmup_lr": 0.0, "epochs": 1}},
        {"augment": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 1.0}},
        {"log_every": 1, "checkpoint_every": 1},
    ],
    ids=str,
)
def test_the_edges_are_possible(settings):
    configs.resolve(settings)


# ------------------------------------------------------------------------------------------------ hash


def leaves(config, prefix=()):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        nested = dataclasses.is_dataclass(value)
        yield from leaves(value, (*prefix, field.name)) if nested else [(*prefix, field.name)]


def changed(config, path):
    name, *rest = path
    value = getattr(config, name)
    other = {int: 77, float: 0.077, str: "other", tuple: (0.077, 0.77), dict: {"other": {}}}
    new = changed(value, rest) if rest else other[type(value)]
    return dataclasses.replace(config, **{name: new})


@pytest.mark.parametrize("path", list(leaves(Config())), ids=".".join)
def test_the_hash_changes_with_every_setting(path):
    assert changed(Config(), path).hash != Config().hash


def test_the_hash_does_not_depend_on_how_a_config_was_written():
    noise = {
        "image_features": {"reduction": 1, "generator": "cross_attention"},
        "prompt_tokens": {"generator": "table"},
    }
    settings = {"noise": noise, "optim": {"lr": 0.001}, "augment": {"scale": [0.08, 1]}}
    assert configs.resolve(settings).hash == Config().hash
    content = json.dumps(configs.to_dict(Config()), sort_keys=True).encode()
    assert Config().hash == hashlib.sha256(content).hexdigest()


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().shots = 3


def test_arguments_of_a_config_file():
    """--config=configs/digits.py:shots=4,optim.lr=0.01"""
    arguments = "shots=4,optim.lr=0.01,clip=/data/b-16,noise.prompt_tokens.initial_scale=0.1"
    changed = configs.with_arguments(configs.default(), arguments)
    resolved = configs.resolve(changed)
    assert (resolved.shots, resolved.optim.lr, resolved.clip) == (4, 0.01, "/data/b-16")
    assert resolved.noise["prompt_tokens"]["initial_scale"] == 0.1
    assert configs.resolve(configs.with_arguments(configs.default(), "")) == Config()


@pytest.mark.parametrize("argument", ["shot=4", "shots", "shots.x=4", "optim=3", "=4"])
def test_unknown_arguments_are_refused(argument):
    with pytest.raises(InputError, match="no key=value of a known key"):
        configs.with_arguments(configs.default(), argument)


@pytest.mark.parametrize("argument", ["shots=four", "shots=1.5", "optim.lr=fast", "augment.flip=yes"])
def test_arguments_of_another_type_are_refused(argument):
    with pytest.raises(InputError, match=f"{argument.partition('=')[0]} is of type (int|float)"):
        configs.with_arguments(configs.default(), argument)


@pytest.mark.parametrize("template", ["a photo", "{} {}", "imagenet_80"])
def test_a_template_is_one_text_with_one_place(template):
    with pytest.raises(InputError, match="template"):
        configs.resolve({"template": template})


def test_a_zero_shot_template_may_be_an_ensemble():
    assert configs.resolve({"zero_shot_template": "imagenet_7"}).zero_shot_template == "imagenet_7"
    with pytest.raises(InputError, match="did you mean 'imagenet_80'"):
        configs.resolve({"zero_shot_template": "imagenet_81"})


@pytest.mark.parametrize("key", ["dataset", "transfer"])
def test_unknown_datasets_are_refused(key):
    with pytest.raises(InputError, match="did you mean 'oxford_pets'"):
        configs.resolve({key: ("oxford_pet",) if key == "transfer" else "oxford_pet"})


def test_a_feature_pack_has_no_towers_and_one_view():
    noise = {"image_features": {"generator": "cross_attention"}}
    pack = {"dataset": "features:pack.npz", "clip": "", "views": 1, "noise": noise}
    assert configs.resolve(pack).dataset == "features:pack.npz"
    released = {"prompt_tokens": {"generator": "table"}}
    for wrong in ({"clip": "tiny_clip"}, {"views": 0}, {"transfer": ("dtd",)}, {"noise": released}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            configs.resolve(pack | wrong)


def test_the_argument_that_a_config_needs_is_taken_out():
    assert configs.take_argument("shots=4,path=a=b,seed=2", "path") == ("a=b", "shots=4,seed=2")
    with pytest.raises(InputError, match="path=..."):
        configs.take_argument("shots=4", "path")


# ------------------------------------------------------------------------------------------------ methods

TABLE = {"text_features": {"generator": "table"}}
PACK = {"dataset": "features:pack.npz", "clip": "", "views": 1}
REFUSED = {
    "a table of classes that are not those of the test": [
        ({"noise": TABLE, "classes": "base"}, "a table of text_features belongs to the classes it was trained on"),
        ({"noise": TABLE, "transfer": ("dtd",)}, "a table of text_features belongs to the classes"),
    ],
    "towers where there are none": [
        (
            PACK | {"noise": {site: {"generator": name}}},
            f"noise at {site} needs the towers, and a feature pack has none",
        )
        for site, name in (("prompt_tokens", "table"), ("pixels", "conv"), ("patch_tokens", "mlp"))
    ]
    + [(PACK | {"method": "coop"}, "method='coop' needs the towers, and a feature pack has none")],
    "no noise": [
        (
            {"noise": {"image_features": {"generator": "table", "control": "none"}}},
            "control=none at every site: plain CLIP is method='zero_shot'",
        ),
        ({"noise": {}}, "noise={} must be at least one site (plain CLIP is method='zero_shot'"),
    ],
    "draws of the prompt alone": [
        (
            {"noise": {"prompt_tokens": {"generator": "table"}}, "num_samples": 2},
            "num_samples=2 must be 1 where there is no noise but the prompt's",
        )
    ],
    "a method that is none": [
        ({"method": "cop"}, "there is no method 'cop'; did you mean 'coop'?"),
        (
            {"method": "coop", "options": {"initial_scal": 1.0}},
            "no option 'initial_scal'; did you mean 'initial_scale'?",
        ),
        (
            {"method": "coop", "options": {"initial_scale": "small"}},
            "options.initial_scale='small' must be a positive float",
        ),
        ({"method": "zero_shot", "options": {"rank": 2}}, "method zero_shot has no option 'rank'"),
        ({"options": {"rank": 2}}, "method pini has no option 'rank'"),
    ],
    "a prompt of several templates": [
        ({"template": "imagenet_7"}, "template='imagenet_7' must be one text, whose tokens the method changes"),
        ({"template": "imagenet_7", "method": "coop"}, "must be one text"),
    ],
}


@pytest.mark.parametrize(("settings", "expected"), [pair for pairs in REFUSED.values() for pair in pairs], ids=str)
def test_what_no_method_can_do_is_refused(settings, expected):
    assert expected in message(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": {"text_features": {"generator": "mlp"}}, "classes": "base"},
        {"noise": TABLE | {"pixels": {"generator": "conv"}}, "num_samples": 4},
        {"noise": TABLE, "template": "imagenet_7"},
        PACK | {"noise": TABLE | {"image_features": {"generator": "mlp"}}},
        {"noise": TABLE | {"pixels": {"generator": "conv", "control": "none"}}, "method": "pini"},
        {"method": "zero_shot", "classes": "base"},
    ],
    ids=str,
)
def test_what_a_method_can_do(settings):
    configs.resolve(settings)


def test_noise_is_of_one_method_alone():
    """Another's config has none, so that equal runs have equal hashes."""
    plain = configs.resolve({"method": "zero_shot"})
    assert plain.noise == {} and configs.resolve({"method": "zero_shot", "noise": TABLE}) == plain
    assert configs.resolve({"method": "coop"}).options == {"initial_scale": 0.02}


def test_a_method_brings_the_settings_of_its_paper():
    """Which other arguments override, wherever they stand."""
    changed = configs.resolve(
        configs.with_arguments(configs.default(), "optim.lr=0.5,method=coop,options.initial_scale=0.1")
    )
    assert (changed.method, changed.optim.lr, changed.options) == ("coop", 0.5, {"initial_scale": 0.1})
    assert changed.optim.epochs == 200 and changed.template == "x " * 16 + "{}."
    with pytest.raises(InputError, match="did you mean 'coop'"):
        configs.with_arguments(configs.default(), "method=coops")


@pytest.mark.parametrize("name", ["pini", "task_res", "gda"])
def test_no_epochs_are_of_methods_that_count_steps_of_a_shot(name):
    assert f"optim.epochs=0 must be at least 1: {name} has no steps_per_shot" in message(
        {"method": name, "optim": {"epochs": 0}}
    )


def test_a_config_with_another_method_still_takes_a_population():
    config = configs.with_arguments(configs.default(), "method=task_res")
    config.population = {"seed": (1, 2)}
    assert [member.config.seed for member in population.members(config)] == [1, 2]


def test_named_values_of_a_population_are_several_settings_each():
    noise = {"prompts": {"noise": {"prompt_tokens": {"generator": "table"}}}, "table": {"noise": TABLE, "seed": 3}}
    members = population.members({"population": {"sites": noise, "shots": (1, 2)}})
    assert [member.name for member in members] == [
        f"sites_{name}-shots_{shots}" for name in ("prompts", "table") for shots in (1, 2)
    ]
    assert [set(member.config.noise) for member in members[::2]] == [{"prompt_tokens"}, {"text_features"}]
    assert [member.config.seed for member in members[1::2]] == [1, 3]
