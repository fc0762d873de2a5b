"""CLIP-SVD against numpy's singular values."""

import jax
import numpy as np
import pytest
from test_methods import KEY, clip_method, pixels

from pini_jax.clip.towers import stage
from pini_jax.clip.zero_shot import cosine_logits
from pini_jax.core.errors import InputError
from pini_jax.methods import forward as stages
from pini_jax.methods.clip_svd import ClipSvd
from pini_jax.methods.method import Variables
from pini_jax.methods.zero_shot import ZeroShot

TOWERS = ("text", "image")


@pytest.fixture(scope="module")
def started(text):
    method, clip = clip_method(ClipSvd)
    return method, clip, jax.jit(method.init)(KEY, clip.theta, text)


def matrices(theta, tower):
    """{name: the matrices of a tower's first layer}, cut out of the kernels one by one, in float64."""
    blocks = jax.tree.map(lambda x: np.float64(x[0]), theta[tower]["blocks"])
    width = len(blocks["qkv"]["kernel"])
    found = {name: blocks["qkv"]["kernel"][:, i].reshape(width, width) for i, name in enumerate("qkv")}
    found["o"] = blocks["out"]["kernel"].reshape(width, width)
    return found | {name: blocks[name]["kernel"] for name in ("mlp_in", "mlp_out")}


def values(variables, tower):
    phi = variables.phi[tower]
    found = dict(zip("qkv", phi["qkv"][0], strict=True))
    return found | {"o": phi["out"][0], "mlp_in": phi["mlp_in"][0], "mlp_out": phi["mlp_out"][0]}


def test_singular_values_are_all_that_changes(started):
    method, clip, start = started
    moved = start._replace(phi=jax.tree.map(lambda s: s * 1.5 + 0.1, start.phi))
    adapted = method.adapt(moved, clip.theta)
    for tower in TOWERS:
        old, new, own = (f(x, tower) for f, x in ((matrices, clip.theta), (matrices, adapted), (values, start)))
        for name, matrix in old.items():
            left, s, right = np.linalg.svd(matrix, full_matrices=False)
            np.testing.assert_allclose(own[name], s, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(new[name], left * (1.5 * s + 0.1) @ right, rtol=1e-3, atol=1e-4)
        kept = [
            (path, x)
            for path, x in jax.tree.leaves_with_path(clip.theta[tower])
            if not (str(path).count("blocks") and str(path).count("kernel"))
        ]
        others = dict(jax.tree.leaves_with_path(adapted[tower]))
        assert kept and all(others[path] is x for path, x in kept)


def test_it_starts_as_zero_shot(started, text):
    method, clip, start = started
    forward = jax.jit(lambda variables: stages.forward(method, variables, clip.theta, text, pixels())[0])
    images = stage(clip.image_tower, "__call__", clip.theta["image"], pixels())
    plain = stages.encode_text(ZeroShot(clip.text_tower), Variables({}), clip.theta, text)
    expected = cosine_logits(clip.theta, images[None, None], plain)
    np.testing.assert_allclose(forward(start), expected, atol=1e-5)
    moved = start._replace(phi=jax.tree.map(lambda s: s * 1.5, start.phi))
    assert np.abs(forward(moved) - expected).max() > 1e-2


def test_a_resnet_is_refused(started, text):
    method, clip, _ = started
    with pytest.raises(InputError, match="clip_svd .* the image tower is no transformer"):
        method.init(KEY, {**clip.theta, "image": {"stem": {}}}, text)
