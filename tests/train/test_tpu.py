"""TPU without a TPU: every method's and every site's step and prediction lower and export for one.

No chip runs them here. What is shown is that each program has a form for a TPU: no operation, callback or layout
that only a CPU knows. The towers are in bfloat16, as on accelerators.
"""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clips
from jax import export

from pini_jax.core import mesh as meshes
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.evaluate import prediction
from pini_jax.methods import registry
from pini_jax.methods.method import Batch
from pini_jax.methods.objective import Objective
from pini_jax.methods.optim import Length, Optim
from pini_jax.methods.registry import Towers
from pini_jax.noise import sites
from pini_jax.train import lanes
from pini_jax.train.step import Constants, init_state, train_step

BATCH = 8
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32)
CONSTANTS = Constants(np.array(1, np.uint32), Optim(), Length(np.array(100, np.float32), np.array(10, np.int32)))
RIVALS = {name: (name, {}) for name in registry.METHODS if not registry.makes_noise(name)}
PLACES = {
    f"{site.name}: {generator}": ("pini", {site.name: {"generator": generator}})
    for site in sites.SITES.values()
    for generator in site.generators
}
CASES = RIVALS | PLACES | {"released": ("pini", tiny_clips.NOISE)}
FEW = ("released", "coop", "tip_adapter_f", "pixels: conv", "patch_tokens: cross_attention")
EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def cases():
    return [pytest.param(name, marks=[] if name in FEW else pytest.mark.long) for name in CASES]


def towers(clip, dtype):
    return Towers(clip.text_tower.clone(dtype=dtype), clip.image_tower.clone(dtype=dtype))


def build(name, clip, dtype=jnp.bfloat16):
    """The method, and the images that it reads."""
    known, noise = CASES[name]
    method = registry.build_method(known, {}, noise, Objective(), towers(clip, dtype))
    size = clip.image_tower.sizes.image_size
    shape = (BATCH, size, size, 3) if method.traits.reads == "pixels" else (BATCH, clip.embed_dim)
    return method, np.random.default_rng(0).standard_normal(shape, np.float32)


def starting(method, clip, text):
    support = NO_SUPPORT
    if method.traits.starts_from_support:
        features = np.random.default_rng(1).standard_normal((2, BATCH, clip.embed_dim), np.float32)
        support = Support(features, LABELS)
    made = init_state(method, clip.theta, text, CONSTANTS, support)
    return jax.tree.map(jnp.asarray, made)


def placed(state, clip, text, images):
    """All that a step reads, on all devices there are."""
    mesh = meshes.make_mesh(1)
    batch = meshes.shard(mesh, Batch(images, LABELS, np.ones(BATCH, np.float32)))
    return *(meshes.replicate(mesh, x) for x in (state, clip.theta, text)), batch


@pytest.mark.parametrize("name", cases())
def test_the_step_exports(name, clip, text):
    method, images = build(name, clip)
    state, theta, text, batch = placed(starting(method, clip, text), clip, text, images)

    def step(state, theta, text, batch):
        return train_step(method, 2 if method.traits.is_random else 1, state, theta, text, batch, CONSTANTS)

    exported = export.export(jax.jit(step), platforms=["tpu"])(state, theta, text, batch)
    assert exported.platforms == ("tpu",) and exported.nr_devices == jax.device_count()
    assert "stablehlo" in exported.mlir_module()
    new, _ = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)


def test_a_call_of_several_steps_exports(clip, text):
    """As many as an argument says."""
    method, images = build("released", clip)
    mesh = meshes.make_mesh(1)
    running = lanes.stack(mesh, [(starting(method, clip, text), CONSTANTS)] * 2)
    batch = Batch(images, LABELS, np.ones(BATCH, np.float32))
    table = lanes.stack_batches(mesh, [[batch] * 2], BATCH, most=4)
    given = running, meshes.replicate(mesh, clip.theta), meshes.replicate(mesh, text), table
    call = jax.jit(functools.partial(lanes.take_steps, method, 1))
    exported = export.export(call, platforms=["tpu"])(*given)
    assert exported.platforms == ("tpu",)
    _, parts = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert parts.loss.shape == (4, 2)


@pytest.mark.parametrize("name", cases())
def test_prediction_exports(name, clip, text, monkeypatch):
    """Every stage, as it is compiled: alone."""
    method, images = build(name, clip)
    state, exported = starting(method, clip, text), []
    own = prediction._program.__wrapped__

    def program(stage):
        run = own(stage)

        def both(method, *inputs):
            leaves, tree = jax.tree.flatten(inputs)  # export builds trees of descriptions, no arrays
            flat = jax.jit(lambda *leaves: run(method, *jax.tree.unflatten(tree, leaves)))
            made = export.export(flat, platforms=["tpu"])(*leaves)
            exported.append((stage, made.platforms))
            return run(method, *inputs)

        return both

    monkeypatch.setattr(prediction, "_program", program)
    found = prediction.predict(method, state.variables, clip.theta, text, images, "marginal", 2, seed=1)
    assert found.log_probabilities.shape == (BATCH, len(tiny_clips.NAMES))
    stages = {stage for stage, platforms in exported if platforms == ("tpu",)}
    assert len(stages) > 1 and all(platforms == ("tpu",) for _, platforms in exported)


@pytest.mark.parametrize("name", cases())
def test_bfloat16_towers_are_close(name, clip, text):
    """Probabilities are those of float32 within 0.05: eight bits of mantissa, some layers deep."""
    of = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        method, images = build(name, clip, dtype)
        state = starting(method, clip, text)
        of[dtype] = prediction.predict(method, state.variables, clip.theta, text, images, "mean", 1, seed=1)
    first, second = (np.exp(x.log_probabilities) for x in of.values())
    np.testing.assert_allclose(first, second, atol=0.05)


@pytest.mark.long
def test_steps_export_for_eight_devices():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-k", "step_exports", __file__]
    done = subprocess.run(command, env=os.environ | EIGHT, capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(CASES)} passed" in done.stdout, done.stdout
