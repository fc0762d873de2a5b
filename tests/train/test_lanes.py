"""The compiled step: lanes do not meet, and memory decides what is kept."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from pini_jax.clip import prompts, zero_shot
from pini_jax.config import Optim
from pini_jax.core import mesh
from pini_jax.methods.method import Batch, Text
from pini_jax.methods.optim import Length
from pini_jax.methods.pini import Injector
from pini_jax.noise import sites
from pini_jax.train import lanes as program
from pini_jax.train import memory
from pini_jax.train.step import Constants, init_state, train_step

pytestmark = pytest.mark.usefixtures("optimised")

MESH = mesh.make_mesh()


@pytest.fixture(scope="module")
def text(clip):
    """Enough classes for layers to be worth something."""
    names = [f"the cat of {i}" for i in range(40)]
    built = prompts.build(clip.tokenizer, "x x the {}.", names, clip.text_tower.sizes)
    packed = prompts.pack(built)
    return Text(zero_shot.encode_classes(clip.text_tower, clip.theta, packed), packed)


@pytest.fixture(scope="module")
def runs(injector, clip, text):
    """Three, with seeds, learning rates, epochs and numbers of images of their own."""
    constants = [
        Constants(
            np.array(seed, np.uint32),
            Optim(lr=0.1 * seed, warmup_lr=0.05),
            Length(np.array(seed, np.float32), np.array(seed)),
        )
        for seed in (1, 2, 3)
    ]
    init = jax.jit(init_state, static_argnums=0)
    return [(init(injector, clip.theta, text, one), one) for one in constants]


@pytest.fixture(scope="module")
def batches(clip):
    rng = np.random.default_rng(0)
    sizes = (2, 5, 4)
    return [
        Batch(rng.standard_normal((b, clip.embed_dim), np.float32), rng.integers(0, 40, b), np.ones(b, np.float32))
        for b in sizes
    ]


def frozen(theta, injector, text, remat="auto"):
    return program.Fixed(MESH, injector, 2, remat, theta, text)


@pytest.mark.long
def test_lanes_are_the_steps_of_runs_alone(clip, injector, text, runs, batches):
    """After three steps; a run changes its lane in between."""
    lanes, table = program.stack(MESH, runs), program.stack_batches(MESH, [batches], 5)
    assert program.width(lanes) == 3 and table.batch.labels.shape == (1, 3, 5)
    step = program.compile_step(frozen(clip.theta, injector, text), lanes, table)
    alone = jax.jit(train_step, static_argnums=(0, 1))
    states = [state for state, _ in runs]
    for i in range(3):
        if i == 2:
            lanes = program.replace(lanes, 1, program.stack(MESH, runs[:1]))
            states[1] = runs[0][0]
        lanes, parts = step(lanes, table)
        for lane, (one, (_, constants)) in enumerate(zip(batches, runs, strict=True)):
            constants = runs[0][1] if (i, lane) == (2, 1) else constants
            states[lane], expected = alone(injector, 2, states[lane], clip.theta, text, one, constants)
            np.testing.assert_allclose(parts.loss[0, lane], expected.loss, rtol=1e-5)
            taken = program.fetch_state(lanes)[lane]
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), taken, states[lane])


@pytest.fixture(scope="module")
def deep(clip, injector):
    """Of as many layers as real towers have: the injector, and the shapes of theta."""
    sizes = clip.text_tower.sizes
    tower = clip.text_tower.clone(
        sizes=dataclasses.replace(sizes, transformer=dataclasses.replace(sizes.transformer, layers=12))
    )
    ids, end = np.zeros((1, 4), np.int32), np.zeros(1, np.int32)
    theta = jax.eval_shape(tower.init, jax.random.key(0), ids, end)["params"]
    return dataclasses.replace(injector, text_tower=tower), {"text": theta, "logit_scale": np.float32(1)}


@pytest.fixture(scope="module")
def bytes_of(deep, text, runs, batches):
    """remat -> temporary bytes of the step."""
    lanes, table = program.stack(MESH, runs[:1]), program.stack_batches(MESH, [batches[:1]], 5)
    injector, theta = deep
    return lambda remat: program.compile_step(frozen(theta, injector, text, remat), lanes, table).temporary_bytes


@pytest.fixture(scope="module")
def never_and_always(bytes_of):
    return bytes_of("never"), bytes_of("always")


@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "size", "kept"),
    [("cpu", 1e9, True), ("cpu", 1e4, False), ("gpu", 1e9, True), ("gpu", 1e4, False)],
)
def test_layers_are_kept_where_memory_holds_them(bytes_of, never_and_always, monkeypatch, backend, size, kept):
    never, always = never_and_always
    assert always < 0.5 * never
    monkeypatch.setattr(memory.jax, "default_backend", lambda: backend)
    # a CPU has another measure than its memory
    monkeypatch.setattr(memory, "device_bytes", lambda: size if backend == "gpu" else None)
    monkeypatch.setattr(memory, "CPU_ROOM", size if backend == "cpu" else None)
    assert bytes_of("auto") == (never if kept else always)


@pytest.mark.long
def test_what_is_kept_is_about_what_the_compiler_keeps(deep, text, never_and_always):
    never, always = never_and_always
    assert 0.5 < memory.kept_bytes(deep[0], text, images=10) / (never - always) < 2


def test_layers_of_the_image_tower_count_where_pixels_are_read(clip, text):
    """For every image and draw, the class token included."""
    noise = {"patch_tokens": {"generator": "mlp"}, "image_features": {"generator": "mlp"}}
    method = Injector(clip.text_tower, sites.build_noise(noise), image_tower=clip.image_tower)
    sizes = clip.image_tower.sizes.transformer
    token = sizes.layers * (9 * sizes.width + 4 * sizes.mlp_width) * 4
    assert memory.kept_bytes(method, Text(text.features), images=10) == 10 * (9 + 1) * token
    of_features = dataclasses.replace(
        method, generators=sites.build_noise({"image_features": noise["image_features"]})
    )
    assert memory.kept_bytes(of_features, Text(text.features), images=10) == 0


@pytest.mark.parametrize(("generator", "side_by_side"), [("conv", False), ("cross_attention", True)])
def test_convolutions_of_one_s_own_are_not_trained_side_by_side(clip, text, monkeypatch, generator, side_by_side):
    """On a CPU."""
    noise = sites.build_noise({"pixels": {"generator": generator}})
    method = Injector(clip.text_tower, noise, image_tower=clip.image_tower)
    assert (memory.most_lanes(method, Text(text.features), images=10) > 1) == side_by_side
    monkeypatch.setattr(memory.jax, "default_backend", lambda: "gpu")
    assert memory.most_lanes(method, Text(text.features), images=10) > 1


def test_convolutions_of_a_step_are_in_no_loop(clip, text):
    """In one, XLA's take 40 times as long on a CPU (https://github.com/jax-ml/jax/issues/12868)."""
    noise = sites.build_noise({"pixels": {"generator": "conv"}})
    method = Injector(clip.text_tower, noise, image_tower=clip.image_tower)
    text, size = Text(text.features), clip.image_tower.sizes.image_size
    constants = Constants(np.array(1, np.uint32), Optim(), Length(np.array(100.0, np.float32), np.array(1)))
    lanes = program.stack(
        MESH, [(jax.jit(init_state, static_argnums=0)(method, clip.theta, text, constants), constants)]
    )
    images = np.zeros((2, size, size, 3), np.float32)
    batch = Batch(images, np.zeros(2, int), np.ones(2, np.float32))
    table = program.stack_batches(MESH, [[batch]], size=2)
    steps = functools.partial(program.take_steps, method, 1)
    equations = jax.make_jaxpr(steps)(lanes, clip.theta, text, table).eqns
    loops = [str(equation) for equation in equations if equation.primitive.name in ("scan", "while")]
    assert "conv_general_dilated" in " ".join(map(str, equations)), "there are some"
    assert not [loop for loop in loops if "conv_general_dilated" in loop]


def test_lanes_follow_from_sizes_and_the_kind_of_device(deep, text, monkeypatch):
    """Not from a clock, nor from what happens to be free."""
    method, tokens = deep[0], text.prompts.suffix.size + len(text.prompts.start) + len(text.prompts.prefix)
    assert memory.most_lanes(method, text, images=10) == memory.CPU_TOKENS // tokens
    monkeypatch.setattr(memory, "CPU_TOKENS", 1)
    assert memory.most_lanes(method, text, images=10) == 1
    monkeypatch.setattr(memory.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(memory, "device_bytes", lambda: 20 * memory.kept_bytes(method, text, images=10))
    assert memory.most_lanes(method, text, images=10) == 10 * len(jax.devices())
    assert memory.most_lanes(method, Text(text.features), images=10) > 1e6  # features alone fill nothing
