"""What makes the noise: the generators against numpy, and what is common to all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny_clips

from pini_jax.core.errors import InputError
from pini_jax.noise import generators, sites
from pini_jax.noise.generators import CrossAttention, Inputs, Mlp, PromptMlp, Table
from pini_jax.noise.pixels import PatchAttention

KEY = jax.random.key(0)


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def linear(x, p):
    return x @ np.float64(p["kernel"]) + np.float64(p["bias"])


def images(b=5, e=16, k=1, c=7):
    """Features of b images, and k draws of those of c classes."""
    return Inputs(normal((1, 1, b, e), 1), (e,), normal((k, c, e), 2))


def patches():
    """Two images of which 3 x 3 patches of 4 x 4 pixels ask, and two draws of the text."""
    query = normal((1, 1, 2, 9, 8), 2)
    return Inputs(normal((1, 1, 2, 13, 13, 3), 1), (13, 13, 3), normal((2, 7, 16), 3), query)


def start(module, site):
    """The variables before the first step, and the noise by them."""
    return jax.jit(lambda key: module.init_with_output(key, site))(KEY)


def make(module, site):
    """The noise by random parameters, and the parameters."""
    variables = tiny_clips.random(jax.eval_shape(lambda key: module.init(key, site), KEY))
    return jax.jit(lambda variables: module.apply(variables, site))(variables), variables


def attend(query, text, phi, heads, scaled):
    """One query and one draw of the text, in float64, head by head."""
    query, key, value = (linear(x, phi[name]) for x, name in ((query, "query"), (text, "key"), (text, "value")))
    found = []
    for q, k, v in zip(*(np.split(x, heads, axis=-1) for x in (query, key, value)), strict=True):
        found.append(scipy.special.softmax(k @ q / (len(q) ** 0.5 if scaled else 1)) @ v)
    return np.concatenate(found)


@pytest.mark.parametrize(("reduction", "heads", "scaled"), [(1, 1, False), (4, 1, False), (2, 4, True)])
def test_cross_attention_equals_numpy(reduction, heads, scaled):
    site = images(k=3)
    (mean, scale, *_), variables = make(CrossAttention(reduction=reduction, heads=heads, scaled=scaled), site)
    phi = variables["params"]
    assert mean.shape == scale.shape == (1, 3, 5, 16)
    for k, b in np.ndindex(3, 5):
        attended = attend(site.x[0, 0, b], site.text[k], phi, heads, scaled)
        assert attended.shape == (16 // reduction,)
        np.testing.assert_allclose(mean[0, k, b], linear(attended, phi["mean"]), atol=1e-5)
        np.testing.assert_allclose(scale[0, k, b], np.abs(linear(attended, phi["scale"])), atol=1e-5)


def test_every_patch_and_every_prompt_token_asks():
    """Each as if it were the feature of an image."""
    module, text = CrossAttention(), normal((1, 7, 16), 2)
    patches, tokens = normal((2, 1, 3, 2, 4, 16), 3), normal((1, 1, 6, 16), 4)
    phi = make(module, images())[1]
    alone = module.apply(phi, Inputs(patches.reshape(1, 1, -1, 16), (16,), text))
    of_patches = module.apply(phi, Inputs(patches, (2, 4, 16), text))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.reshape(a.shape), atol=1e-5), of_patches, alone)
    alone = module.apply(phi, Inputs(tokens[:, :, None], (16,), text))
    of_tokens = module.apply(phi, Inputs(tokens, (6, 16), text))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.reshape(a.shape), atol=1e-5), of_tokens, alone)


def test_the_sign_of_cross_attention_s_scale_is_dropped():
    (_, scale, *_), _ = make(CrossAttention(), images(b=20))
    assert (scale > 0).all()


@pytest.mark.parametrize("reduction", [1, 4])
def test_linear_layers_start_as_pytorch_s(reduction):
    """U(-1/sqrt(inputs), 1/sqrt(inputs)), of the weight and of the bias."""
    phi = start(CrossAttention(reduction=reduction), images(b=1, e=256, c=1))[1]["params"]
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


def test_the_initial_scale_of_layers_is_that_of_the_heads():
    (large, small) = (start(Mlp(initial_scale=x), images())[1]["params"] for x in (1.0, 0.01))
    for name, p in large.items():
        factor = 0.01 if name in ("mean", "scale") else 1.0
        jax.tree.map(lambda a, b, f=factor: np.testing.assert_allclose(f * a, b, rtol=1e-5), p, small[name])


@pytest.mark.parametrize("module", [CrossAttention, Mlp])
def test_a_reduction_that_does_not_divide_is_refused(module):
    with pytest.raises(InputError, match="reduction=3 does not divide 16"):
        module(reduction=3).init(KEY, images())


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="3 heads do not divide 8"):
        CrossAttention(reduction=2, heads=3).init(KEY, images())


@pytest.mark.parametrize("reduction", [1, 2])
def test_mlp_equals_numpy(reduction):
    site = images()
    (mean, scale, *_), variables = make(Mlp(reduction=reduction), site)
    phi = variables["params"]
    hidden = np.maximum(linear(site.x, phi["hidden"]), 0)
    assert hidden.shape == (1, 1, 5, 16 // reduction) and set(phi) == {"hidden", "mean", "scale"}
    np.testing.assert_allclose(mean, linear(hidden, phi["mean"]), atol=1e-5)
    np.testing.assert_allclose(scale, np.abs(linear(hidden, phi["scale"])), atol=1e-5)


def test_mlp_of_prompt_tokens_sees_the_mean_text_feature():
    """Which is as wide as the joint space, not as the tokens."""
    site = Inputs(normal((1, 1, 6, 16), 1), (6, 16), normal((1, 7, 24), 2))
    (mean, scale, *_), variables = make(PromptMlp(), site)
    phi = variables["params"]
    hidden = np.maximum(linear(site.x, phi["hidden"]) + linear(site.text.mean(1), phi["text"]), 0)
    np.testing.assert_allclose(mean, linear(hidden, phi["mean"]), atol=1e-5)
    np.testing.assert_allclose(scale, np.abs(linear(hidden, phi["scale"])), atol=1e-5)


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("initial_scale", [0.02, 0.5])
def test_table_is_its_parameters(initial_scale):
    site = Inputs(normal((1, 1, 40, 30), 0), (40, 30), None)
    gaussian, variables = start(Table(initial_scale=initial_scale), site)
    for name in ("mean", "scale"):
        np.testing.assert_array_equal(getattr(gaussian, name)[0, 0], variables["params"][name])
        assert np.std(variables["params"][name]) == pytest.approx(initial_scale, rel=0.1)
        assert np.mean(variables["params"][name]) == pytest.approx(0, abs=0.1 * initial_scale)
    assert (gaussian.mean != gaussian.scale).all()


TABLES = {
    "prompt_tokens": ((1, 1, 6, 16), (6, 16)),
    "text_features": ((1, 3, 7, 16), (7, 16)),
    "image_features": ((2, 3, 5, 16), (16,)),
}


@pytest.mark.parametrize("site", TABLES)
def test_a_table_is_the_same_for_every_draw_and_image(site):
    assert sites.SITES[site].generators["table"] is Table
    shape, own = TABLES[site]
    gaussian, variables = make(Table(), Inputs(normal(shape, 0), own, None))
    for name in ("mean", "scale"):
        parameters = variables["params"][name]
        assert parameters.shape == own
        np.testing.assert_array_equal(getattr(gaussian, name), np.broadcast_to(parameters, shape))


def test_which_sites_have_a_table():
    assert {name for name, site in sites.SITES.items() if Table in site.generators.values()} == set(TABLES)


# ------------------------------------------------------------------------------------------------ controls

# A site for every class of generators, and the parameters that make its mean and scale.
KINDS = {
    "table": (Table, images(), set()),
    "mlp": (Mlp, images(), {"hidden"}),
    "cross_attention": (CrossAttention, images(), {"query", "key", "value"}),
    "patch_attention": (PatchAttention, patches(), {"query", "key", "value"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("control", ["learned", "random", "mean_only", "scale_only"])
def test_controls_say_what_is_learned_and_what_is_zero(kind, control):
    module, site, before = KINDS[kind]
    gaussian, variables = make(module(control=control, initial_scale=0.5), site)
    heads = {"learned": {"mean", "scale"}, "random": set(), "mean_only": {"mean"}, "scale_only": {"scale"}}[
        control
    ]
    assert set(variables.get("params", {})) == (heads | before if heads else set())
    assert gaussian.mean.shape == gaussian.scale.shape
    if control == "random":
        assert not gaussian.mean.any() and (gaussian.scale == 0.5).all()
    else:
        assert bool(gaussian.mean.any()) == ("mean" in heads)
        assert bool(gaussian.scale.any()) == ("scale" in heads)
    assert module(control=control).is_still == ("mean" not in heads)


MAPS = {"abs": np.abs, "softplus": lambda x: np.log1p(np.exp(x)), "exp": np.exp, "free": lambda x: x}


@pytest.mark.parametrize("sigma", MAPS)
def test_sigma_follows_from_what_is_learned(sigma):
    gaussian, variables = make(Table(sigma=sigma, initial_scale=1.0), images())
    np.testing.assert_allclose(gaussian.scale[0, 0, 0], MAPS[sigma](variables["params"]["scale"]), rtol=1e-5)
    np.testing.assert_array_equal(gaussian.mean[0, 0, 0], variables["params"]["mean"])
    assert set(MAPS) == set(generators.SIGMAS)


@pytest.mark.parametrize(
    ("site", "axes"), [(images(), (-1,)), (patches(), (-3, -2, -1))], ids=["vectors", "pixels"]
)
def test_a_level_is_a_fraction_of_the_norm(site, axes):
    """Of sigma = 1: the length of a draw is about that of sigma."""
    fixed = Table(control="random", level=0.2).apply({}, site).scale
    lengths = [np.sqrt(np.square(x).sum(axes)) for x in (fixed, site.x)]
    np.testing.assert_allclose(lengths[0], 0.2 * lengths[1], rtol=1e-5)
    absolute, variables = make(Table(), site)
    relative = Table(level=0.2).apply(variables, site)
    for name in ("mean", "scale"):
        np.testing.assert_allclose(getattr(relative, name), getattr(absolute, name) * fixed, rtol=1e-5)


def test_a_level_takes_no_gradient_from_its_input():
    site, variables = images(), make(Table(), images())[1]
    gradient = jax.grad(lambda x: Table(level=0.2).apply(variables, site._replace(x=x)).scale.sum())(site.x)
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_generators_compute_in_float32(kind, dtype):
    module, site, _ = KINDS[kind]
    low = Inputs(*(x if x is None or isinstance(x, tuple) else jnp.asarray(x, dtype) for x in site))
    for level in (0.0, 0.1):
        found = jax.eval_shape(lambda key, level=level: module(level=level).init_with_output(key, low), KEY)
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
