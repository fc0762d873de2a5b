"""From a noise config to generators, and what is wrong with one."""

import pytest

from pini_jax.core.errors import InputError
from pini_jax.noise import sites
from pini_jax.noise.generators import CrossAttention, Table

RELEASED = {
    "prompt_tokens": {"generator": "table"},
    "image_features": {"generator": "cross_attention", "reduction": 4},
}


def test_build_makes_the_released_generators():
    built = sites.build_noise(RELEASED)
    assert dict(built) == {"prompt_tokens": Table(), "image_features": CrossAttention(reduction=4)}
    assert hash(built) == hash(sites.build_noise(RELEASED))  # jit needs it
    assert not sites.build_noise({})


def test_a_control_may_leave_a_site_out():
    noise = {"prompt_tokens": {"generator": "table", "control": "none"}, "text_features": {"generator": "table"}}
    assert set(sites.build_noise(noise)) == {"text_features"}


def test_every_option_of_every_generator_is_written_out():
    for site, value in sites.SITES.items():
        for name in value.generators:
            full = sites.noise_with_defaults({site: {"generator": name, "control": "mean_only"}})
            assert full[site]["control"] == "mean_only" and full[site]["level"] == 0.0
            assert sites.build_noise(full) == sites.build_noise(
                {site: {"generator": name, "control": "mean_only"}}
            )


WRONG = {
    "site": ({"promt_tokens": {"generator": "table"}}, r"no site 'promt_tokens'; did you mean 'prompt_tokens'\?"),
    "far site": (
        {"zzz": {"generator": "table"}},
        "no site 'zzz'; known: prompt_tokens, text_features, pixels, patch_tokens, image_features",
    ),
    "generator": (
        {"image_features": {"generator": "cross_atention"}},
        r"image_features has no generator 'cross_atention'; did you mean 'cross_attention'\?",
    ),
    "generator of another site": (
        {"prompt_tokens": {"generator": "conv"}},
        "prompt_tokens has no generator 'conv'; known: table, mlp, cross_attention",
    ),
    "no generator": ({"prompt_tokens": {}}, "prompt_tokens has no generator"),
    "option": (
        {"image_features": {"generator": "cross_attention", "reductoin": 2}},
        r"image_features: cross_attention has no option 'reductoin'; did you mean 'reduction'\?",
    ),
    "flax's own fields": ({"prompt_tokens": {"generator": "table", "name": "x"}}, "no option 'name'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_unknown_names_are_refused(wrong):
    noise, message = WRONG[wrong]
    with pytest.raises(InputError, match=message):
        sites.build_noise(noise)


@pytest.mark.parametrize(
    "noise",
    [
        {"image_features": {"generator": "cross_attention", "reduction": 0}},
        {"image_features": {"generator": "cross_attention", "reduction": -2}},
        {"image_features": {"generator": "cross_attention", "reduction": "two"}},
        {"prompt_tokens": {"generator": "table", "initial_scale": "small"}},
        {"prompt_tokens": {"generator": "table", "initial_scale": -0.02}},
        {"prompt_tokens": {"generator": "table", "control": "off"}},
        {"prompt_tokens": {"generator": "table", "sigma": "square"}},
        {"text_features": {"generator": "table", "level": -0.1}},
        {"pixels": {"generator": "conv", "amplitude": 0}},
        {"pixels": {"generator": "conv", "initial_scale": 0.5}},
        {"image_features": {"generator": "cross_attention", "heads": 1.5}},
        {"image_features": {"generator": "cross_attention", "scaled": 1}},
        {"prompt_tokens": "table"},
    ],
    ids=str,
)
def test_impossible_options_are_refused(noise):
    with pytest.raises(InputError, match=next(iter(noise))):
        sites.build_noise(noise)
