"""What makes the noise: the generators against numpy, and the errors of a noise config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from pini_jax.errors import InputError
from pini_jax.noise import generators
from pini_jax.noise.generators import CrossAttention, Table

KEY = jax.random.key(0)
RELEASED = {
    "prompt_tokens": {"generator": "table"},
    "image_features": {"generator": "cross_attention", "reduction": 4},
}


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def linear(x, p):
    return x @ np.float64(p["kernel"]) + np.float64(p["bias"])


@pytest.mark.parametrize("reduction", [1, 4])
def test_cross_attention_equals_numpy(reduction):
    """One image and one draw of the text at a time, in float64; without a division by sqrt(channels)."""
    features, text = normal((5, 16), 1), normal((3, 7, 16), 2)
    module = CrossAttention(reduction)
    phi = module.init(KEY, features, text)["params"]
    mean, scale = module.apply({"params": phi}, features, text)
    assert mean.shape == scale.shape == (3, 5, 16)
    for k in range(3):
        key, value = linear(text[k], phi["key"]), linear(text[k], phi["value"])
        for b in range(5):
            attended = scipy.special.softmax(key @ linear(features[b], phi["query"])) @ value
            assert attended.shape == (16 // reduction,)
            np.testing.assert_allclose(mean[k, b], linear(attended, phi["mean"]), atol=1e-5)
            np.testing.assert_allclose(scale[k, b], np.abs(linear(attended, phi["scale"])), atol=1e-5)


def test_the_sign_of_cross_attention_s_scale_is_dropped():
    features, text = normal((20, 16), 1), normal((1, 7, 16), 2)
    (_, scale), _ = CrossAttention().init_with_output(KEY, features, text)
    assert (scale > 0).all()


@pytest.mark.parametrize("reduction", [1, 4])
def test_linear_layers_start_as_pytorch_s(reduction):
    """U(-1/sqrt(inputs), 1/sqrt(inputs)), of the weight and of the bias."""
    phi = CrossAttention(reduction).init(KEY, jnp.zeros((1, 256)), jnp.zeros((1, 1, 256)))["params"]
    assert set(phi) == {"query", "key", "value", "mean", "scale"}
    narrow = 256 // reduction
    for name, p in phi.items():
        inputs, outputs = (narrow, 256) if name in ("mean", "scale") else (256, narrow)
        assert p["kernel"].shape == (inputs, outputs) and p["bias"].shape == (outputs,)
        for leaf in (p["kernel"], p["bias"]):
            bound = inputs**-0.5
            assert 0.9 * bound < np.abs(leaf).max() <= bound
            assert np.std(leaf) == pytest.approx(bound / 3**0.5, rel=0.2)
            assert np.mean(leaf) == pytest.approx(0, abs=0.25 * bound)


def test_a_reduction_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="reduction=3 does not divide 16"):
        CrossAttention(3).init(KEY, jnp.zeros((1, 16)), jnp.zeros((1, 1, 16)))


@pytest.mark.parametrize("initial_scale", [0.02, 0.5])
def test_table_is_its_parameters(initial_scale):
    module = Table(initial_scale)
    gaussian, variables = module.init_with_output(KEY, (40, 30))
    for name in ("mean", "scale"):
        np.testing.assert_array_equal(getattr(gaussian, name), variables["params"][name])
        assert np.std(variables["params"][name]) == pytest.approx(initial_scale, rel=0.1)
        assert np.mean(variables["params"][name]) == pytest.approx(0, abs=0.1 * initial_scale)
    assert (gaussian.mean != gaussian.scale).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_generators_compute_in_float32(dtype):
    inputs = jnp.ones((2, 16), dtype), jnp.ones((1, 3, 16), dtype)
    gaussian, variables = CrossAttention().init_with_output(KEY, *inputs)
    assert {x.dtype for x in jax.tree.leaves((gaussian, variables))} == {jnp.dtype("float32")}


# ------------------------------------------------------------------------------------------------ config


def test_build_makes_the_released_generators():
    built = generators.build(RELEASED)
    assert dict(built) == {"prompt_tokens": Table(), "image_features": CrossAttention(reduction=4)}
    assert hash(built) == hash(generators.build(RELEASED))  # jit needs it
    assert not generators.build({})


WRONG = {
    "site": ({"promt_tokens": {"generator": "table"}}, r"no site 'promt_tokens'; did you mean 'prompt_tokens'\?"),
    "far site": ({"zzz": {"generator": "table"}}, "no site 'zzz'; known: prompt_tokens, image_features"),
    "generator": (
        {"image_features": {"generator": "cross_atention"}},
        r"image_features has no generator 'cross_atention'; did you mean 'cross_attention'\?",
    ),
    "generator of another site": (
        {"prompt_tokens": {"generator": "cross_attention"}},
        "prompt_tokens has no generator 'cross_attention'; known: table",
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
        generators.build(noise)


@pytest.mark.parametrize(
    "noise",
    [
        {"image_features": {"generator": "cross_attention", "reduction": 0}},
        {"image_features": {"generator": "cross_attention", "reduction": -2}},
        {"image_features": {"generator": "cross_attention", "reduction": "two"}},
        {"prompt_tokens": {"generator": "table", "initial_scale": "small"}},
        {"prompt_tokens": {"generator": "table", "initial_scale": -0.02}},
        {"prompt_tokens": "table"},
    ],
    ids=str,
)
def test_impossible_options_are_refused(noise):
    with pytest.raises(InputError, match=next(iter(noise))):
        generators.build(noise)
