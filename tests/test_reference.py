"""The recordings of PINI_REFERENCE_DIR: the paper's own implementation, step by step."""

import dataclasses
import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from samples import sample
from tiny_clips import run_stage

from pini_jax import config
from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.evaluate import prediction as evaluate
from pini_jax.methods import forward as stages
from pini_jax.methods import optim
from pini_jax.methods.method import Batch, Text, Variables
from pini_jax.methods.objective import objective
from pini_jax.methods.pini import Injector
from pini_jax.methods.zero_shot import ZeroShot
from pini_jax.noise import sites
from pini_jax.noise.draws import draw_mean, draw_replay
from pini_jax.train import step

REFERENCE = os.environ.get("PINI_REFERENCE_DIR")
DATA = os.environ.get("PINI_DATA_DIR")
TOLERANCE = 1e-4

pytestmark = [
    pytest.mark.usefixtures("optimised"),
    pytest.mark.skipif(not REFERENCE, reason="PINI_REFERENCE_DIR is not set"),
    pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR (with the tokenizer) is not set"),
]

# The recording's name of each trainable, its place in phi, and whether it is a transposed matrix.
ATTENTION = {"query": "crossAttention.fc_q", "key": "crossAttention.fc_k", "value": "crossAttention.fc_v"}
HEADS = {"mean": "fc_mean", "scale": "fc_variance"}
NAMES = {
    ("prompt_tokens", "mean"): ("promptVpnGenerator.template_mu", False),
    ("prompt_tokens", "scale"): ("promptVpnGenerator.template_var", False),
} | {
    ("image_features", ours, leaf): (f"imageVpnGenerator.{theirs}.{kind}", leaf == "kernel")
    for ours, theirs in (ATTENTION | HEADS).items()
    for leaf, kind in (("kernel", "weight"), ("bias", "bias"))
}


def cases(folder):
    return sorted(Path(REFERENCE, folder).glob("*.json")) if REFERENCE else []


class Case(NamedTuple):
    settings: dict
    record: dict
    clip: pretrained.Pretrained


def load(path):
    with np.load(path.with_suffix(".npz")) as file:
        record = dict(file)
    clip = pretrained.load_clip(str(path.with_suffix(".clip.safetensors")), str(Path(DATA, "tokenizer")))
    return Case(json.loads(path.read_text()), record, clip)


@pytest.fixture(scope="module", params=cases("official"), ids=lambda path: path.stem)
def case(request):
    return load(request.param)


def assert_close(ours, theirs, what, rounding=0.0):
    """Within TOLERANCE of the greatest value, and the rounding of what was summed on the way."""
    error, greatest = np.abs(np.asarray(ours) - theirs).max(), np.abs(theirs).max()
    assert error <= TOLERANCE * greatest + rounding, f"{what}: error {error:.1e} of {greatest:.1e}"


def recorded_phi(record, group):
    phi = {}
    for path, (name, transposed) in NAMES.items():
        value = record[f"{group}/{name}"]
        node = phi
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(value.T if transposed else value)
    return phi


def assert_trees_close(ours, theirs, what, rounding=0.0):
    jax.tree.map_with_path(
        lambda path, a, b: assert_close(a, b, what + jax.tree_util.keystr(path), rounding), ours, theirs
    )


def assert_gradients_close(ours, theirs, what):
    # Through the attention's softmax large terms cancel: in float64 a recording's own gradients of query and key
    # are off by up to 2e-4 of themselves, and that of the key's bias is nothing but rounding.
    greatest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    assert_trees_close(ours, theirs, what, rounding=np.finfo(np.float32).eps * greatest)


def make_prompts(case):
    template = f"{case.settings['context']}{case.settings['template']} {{}}."
    return prompts.build(case.clip.tokenizer, template, case.settings["classnames"], case.clip.text_tower.sizes)


def make_text(case):
    return Text(jnp.asarray(case.record["zs_text_features"])[None], make_prompts(case))


def make_injector(case):
    noise = {
        "prompt_tokens": {"generator": "table"},
        "image_features": {"generator": "cross_attention", "reduction": case.settings["reduction"]},
    }
    return Injector(case.clip.text_tower, sites.build_noise(noise))


def encode_ids(clip, ids):
    end = np.asarray(ids).argmax(-1)  # OpenAI's rule: the end token has the greatest id
    return run_stage(clip.text_tower, "__call__", clip.theta["text"], ids, end)


def encode_images(clip, images):
    return run_stage(clip.image_tower, "__call__", clip.theta["image"], images.transpose(0, 2, 3, 1))


def recorded_draws(record, i):
    return {
        "prompt_tokens": record[f"step{i}/eps_text"][:, None],
        # [b k e] there, [k (one draw of text) b e] here
        "image_features": record[f"step{i}/eps_image"].swapaxes(0, 1)[:, None],
    }


def image_major(logits):
    """[k 1 b c] -> [(b k) c], as the recordings order them."""
    return np.asarray(logits)[:, 0].swapaxes(0, 1).reshape(-1, logits.shape[-1])


def test_token_ids(case):
    built = make_prompts(case)
    length = len(built.start) + len(built.prefix) + built.end % built.suffix.shape[1] + 1
    for c, theirs in enumerate(case.record["token_ids"]):
        ours = np.concatenate([built.start, built.prefix, built.suffix[c]])[: length[c]]
        np.testing.assert_array_equal(ours, theirs[: length[c]])
        assert not theirs[length[c] :].any()


def test_zero_shot(case):
    record, clip = case.record, case.clip
    images, text = encode_images(clip, record["images"]), encode_ids(clip, record["zs_token_ids"])
    assert_close(images, record["image_features"], "image features")
    assert_close(text, record["zs_text_features"], "text features")
    logits = zero_shot.cosine_logits(clip.theta, images[None, None], text[None])[0, 0]
    assert_close(logits, record["zs_logits"], "logits")


def test_steps(case):
    """Logits, loss, every gradient and the parameters of three steps, with the recorded draws."""
    record, settings, clip = case.record, case.settings, case.clip
    inject, text = make_injector(case), make_text(case)
    constant = config.Optim(
        lr=settings["lr"],
        warmup_lr=settings["lr"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )
    optimiser = optim.optimiser(constant, optim.Length(constant.epochs, per_epoch=settings["steps"]))
    phi = recorded_phi(record, "init")
    state = step.TrainState(jnp.zeros((), jnp.int32), phi, optimiser.init(phi))
    batch = Batch(
        images=encode_images(clip, record["images"]),
        labels=record["labels"],
        weights=np.ones(len(record["labels"]), np.float32),
    )

    @jax.jit
    def forward(state, theta, draws):
        def loss(phi):
            logits, _ = stages.forward(inject, Variables(phi), theta, text, batch.images, draw_replay(draws))
            return stages.loss(inject, Variables(phi), theta, text, batch, draw_replay(draws))[0].loss, logits

        updated, _ = step.update(inject, optimiser, state, theta, text, batch, draw_replay(draws))
        return jax.value_and_grad(loss, has_aux=True)(state.phi), updated

    for i in range(settings["steps"]):
        ((loss, logits), gradient), state = forward(state, clip.theta, recorded_draws(record, i))
        assert_close(image_major(logits), record[f"step{i}/logits"], f"logits of step {i}")
        assert_close(loss, record[f"step{i}/loss"], f"loss of step {i}")
        assert_gradients_close(gradient, recorded_phi(record, f"step{i}/grad"), f"gradient of step {i}: ")
    assert_trees_close(state.phi, recorded_phi(record, "final"), "parameters after the last step: ")


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_zero_noise_is_plain_clip(case, mode):
    """mu = sigma = 0 changes no bit of the predictions."""
    clip, text = case.clip, make_text(case)
    silent = Variables(jax.tree.map(jnp.zeros_like, recorded_phi(case.record, "init")))
    images = np.asarray(case.record["image_features"])

    def predict(method, variables, mode):
        return evaluate.predict(method, variables, clip.theta, text, images, mode, num_draws=1, seed=0)

    plain = predict(ZeroShot(clip.text_tower), Variables({}), "mean")
    jax.tree.map(np.testing.assert_array_equal, predict(make_injector(case), silent, mode), plain)


def test_shared_prefix_equals_the_full_text_path(case):
    """Noised text features by the shared prefix, and by 77 tokens per class."""
    text, clip, record = make_text(case), case.clip, case.record
    inject, phi = make_injector(case), recorded_phi(record, "init")
    draw = draw_replay(recorded_draws(record, 0))
    shared = jax.jit(lambda phi: stages.encode_text(inject, Variables(phi), clip.theta, text, draw))(phi)[0]
    table = phi["prompt_tokens"]
    noise = table["mean"] + table["scale"] * record["step0/eps_text"][0]
    tokens = run_stage(clip.text_tower, "embed", clip.theta["text"], record["token_ids"])
    tokens = tokens.at[:, 1 : 1 + len(noise)].add(noise)
    tokens = run_stage(clip.text_tower, "encode", clip.theta["text"], tokens)
    at_end = tokens[np.arange(len(tokens)), record["token_ids"].argmax(-1)]
    full = run_stage(clip.text_tower, "project", clip.theta["text"], at_end)
    assert np.abs(shared - full).max() / np.abs(full).max() <= 1e-5


# The released generator of pixel noise: names of its blocks, and those of a convolution and its norm within one.
BLOCKS = ("layer1.0", "layer1.1", "layer2.0", "layer3.0")
PARTS = {"1": ("conv1", "bn1"), "2": ("conv2", "bn2"), "shortcut": ("shortcut.0", "shortcut.1")}


def pixel_layers(record):
    """Our name of a convolution with its norm -> theirs of both."""
    layers = {"stem": ("conv1", "bn1")}
    for i, block in enumerate(BLOCKS):
        layers |= {f"block_{i}_{ours}": [f"{block}.{x}" for x in theirs] for ours, theirs in PARTS.items()}
    return {ours: theirs for ours, theirs in layers.items() if f"init/{theirs[0]}.weight" in record}


def pixel_phi(record, group):
    def kernel(name):
        return {"kernel": record[f"{group}/{name}.weight"].transpose(2, 3, 1, 0)}

    def norm(name):
        return {"scale": record[f"{group}/{name}.weight"], "bias": record[f"{group}/{name}.bias"]}

    layers = {
        ours: {"conv": kernel(conv), "norm": norm(theirs)} for ours, (conv, theirs) in pixel_layers(record).items()
    }
    return {"pixels": layers | {"mean": kernel("conv_mean"), "scale": kernel("conv_variance")}}


def pixel_buffers(record, group):
    def norm(name):
        return {"mean": record[f"{group}/{name}.running_mean"], "var": record[f"{group}/{name}.running_var"]}

    layers = {ours: {"norm": norm(theirs)} for ours, (_, theirs) in pixel_layers(record).items()}
    return {"pixels": {"batch_stats": layers}}


def in_precision(case, dtype):
    """The case with all numbers and the towers' computation in this precision."""

    def cast(x):
        return jnp.asarray(x, dtype) if np.issubdtype(x.dtype, np.floating) else x

    tower = case.clip.image_tower.clone(dtype=jnp.dtype(dtype))
    clip = dataclasses.replace(case.clip, theta=jax.tree.map(cast, case.clip.theta), image_tower=tower)
    record = {
        key: value.astype(dtype) if value.dtype == np.float32 else value for key, value in case.record.items()
    }
    return case._replace(clip=clip, record=record)


@pytest.mark.parametrize("dtype", sample(["float32", "float64"], "float64"))
@pytest.mark.parametrize("path", cases("pixel"), ids=lambda path: path.stem)
def test_pixel_noise(path, dtype):
    """Mean and scale, logits, loss, every gradient and the running statistics of every step; and evaluation.

    In float32 the gradients of later steps are not compared: where parameters are off by one part in ten millions,
    as after a step by other sums, inputs of a ReLU change their sign, and gradients by a percent.
    """
    with jax.enable_x64(dtype == "float64"):
        replay_pixels(in_precision(load(path), dtype), exact=dtype == "float64")


def replay_pixels(case, exact):
    record, settings, clip = case.record, case.settings, case.clip
    text = Text(jnp.asarray(record["text_features"])[None])
    noise = {"pixels": {"generator": "conv", "amplitude": settings["level"]}}
    inject = Injector(generators=sites.build_noise(noise), image_tower=clip.image_tower)
    rates = {"lr": settings["lr"], "warmup_lr": settings["lr"]}
    constant = config.Optim(**rates, momentum=settings["momentum"], weight_decay=settings["weight_decay"])
    optimiser = optim.optimiser(constant, optim.Length(constant.epochs, per_epoch=settings["steps"]))
    phi = pixel_phi(record, "init")
    state = step.TrainState(jnp.zeros((), jnp.int32), phi, optimiser.init(phi), pixel_buffers(record, "init"))
    blank = jax.eval_shape(inject.init, jax.random.key(0), clip.theta, text)
    assert jax.tree.map(jnp.shape, blank) == jax.tree.map(jnp.shape, state.variables)
    nhwc = (0, 2, 3, 1)
    pixels = record["images"].transpose(nhwc)
    batch = Batch(pixels, record["labels"], np.ones(len(pixels), pixels.dtype))

    def look(variables, theta, draw, weights):
        """The Gaussian, logits, and the buffers afterwards."""
        found = []

        def watched(site, gaussian):
            found.append(gaussian)
            return draw(site, gaussian)

        logits, buffers = stages.forward(inject, variables, theta, text, pixels, watched, weights)
        return found[0], logits, buffers

    @jax.jit
    def one(state, theta, normals):
        """As `step.update`, and all that it computes on the way."""

        def loss(phi):
            variables, draw = Variables(phi, state.buffers), draw_replay({"pixels": normals})
            gaussian, logits, buffers = look(variables, theta, draw, batch.weights)
            return objective(logits, batch.labels, batch.weights).loss, (gaussian, logits, buffers)

        (value, (*found, buffers)), gradient = jax.value_and_grad(loss, has_aux=True)(state.phi)
        updates, opt_state = optimiser.update(gradient, state.opt_state, state.phi)
        phi = optax.apply_updates(state.phi, updates)
        return (*found, value, gradient), step.TrainState(state.step + 1, phi, opt_state, buffers)

    def assert_gaussian(gaussian, group):
        assert_close(gaussian.mean[0, 0], record[f"{group}/mu"].transpose(nhwc), f"mean: {group}")
        assert_close(gaussian.scale[0, 0], record[f"{group}/sigma"].transpose(nhwc), f"scale: {group}")

    for i in range(settings["steps"]):
        normals = record[f"step{i}/eps"].transpose(nhwc)[None, None]
        (gaussian, logits, loss, gradient), state = one(state, clip.theta, normals)
        assert_gaussian(gaussian, f"step{i}")
        assert_close(logits[0, 0], record[f"step{i}/logits"], f"logits of step {i}")
        assert_close(loss, record[f"step{i}/loss"], f"loss of step {i}")
        if exact or i == 0:
            assert_trees_close(gradient, pixel_phi(record, f"step{i}/grad"), f"gradient of step {i}: ")
    if exact:
        assert_trees_close(state.phi, pixel_phi(record, "final"), "parameters after the last step: ")
        assert_trees_close(state.buffers, pixel_buffers(record, "final"), "statistics after the last step: ")
        gaussian, *_ = jax.jit(look, static_argnums=2)(state.variables, clip.theta, draw_mean, None)
        assert_gaussian(gaussian, "eval")


@pytest.mark.parametrize("path", cases("towers"), ids=lambda path: path.stem)
def test_towers(path):
    case = load(path)
    if (archive := path.with_suffix(".pt")).exists():
        from_archive = pretrained.load_clip(str(archive), str(Path(DATA, "tokenizer"))).theta
        jax.tree.map(np.testing.assert_array_equal, from_archive, case.clip.theta)
    images, text = encode_images(case.clip, case.record["images"]), encode_ids(case.clip, case.record["token_ids"])
    assert_close(images, case.record["image_features"], "image features")
    assert_close(text, case.record["text_features"], "text features")
    logits = zero_shot.cosine_logits(case.clip.theta, images[None, None], text[None])[0, 0]
    assert_close(logits, case.record["logits"], "logits")
