"""Checkpoint files: strict both ways, and bit for bit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clips
from safetensors.numpy import load_file, save_file

from pini_jax.clip.checkpoints import hugging_face, open_clip, tensors, weights
from pini_jax.core.errors import InputError

OPENAI = open_clip.scheme(tiny_clips.sizes())  # of every ViT
SCHEMES = {"hugging_face": hugging_face.CLIP, "openai": OPENAI}


@pytest.fixture(scope="module")
def sizes():
    return tiny_clips.sizes(image_width=16, layers=2)


@pytest.fixture(scope="module")
def theta(sizes):
    return tiny_clips.theta(sizes)


@pytest.fixture(params=SCHEMES)
def scheme(request):
    return SCHEMES[request.param]


def saved(path, scheme, theta):
    weights.save_weights(path, scheme, theta)
    return path


def load(scheme, sizes, *paths, dtype=jnp.float32):
    return weights.load_weights(scheme, sizes, tensors.index(paths), dtype, name="CLIP")


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def edit(path, change):
    """Rewrites a safetensors file after `change` did something to its tensors."""
    content = load_file(path)
    change(content)
    save_file(content, path)


def test_round_trip_is_bitwise(tmp_path, scheme, sizes, theta):
    assert_equal(load(scheme, sizes, saved(tmp_path / "w", scheme, theta)), theta)


def test_layouts_are_pytorch_s(tmp_path, sizes, theta):
    """By hand, where a wrong transpose or split would still have the right shape."""
    file = load_file(saved(tmp_path / "w", hugging_face.CLIP, theta))
    image, text = theta["image"], theta["text"]
    width = sizes.text.transformer.width
    for i, name in enumerate("qkv"):
        key = f"text_model.encoder.layers.1.self_attn.{name}_proj"
        kernel = text["blocks"]["qkv"]["kernel"][1][:, i].reshape(width, width)
        np.testing.assert_array_equal(file[f"{key}.weight"], kernel.T)
        np.testing.assert_array_equal(file[f"{key}.bias"], text["blocks"]["qkv"]["bias"][1][i].ravel())
    conv = file["vision_model.embeddings.patch_embedding.weight"]  # [out, in, y, x]
    p = sizes.image.patch_size
    kernel = image["patch_embedding"]["kernel"].reshape(p, p, 3, -1)
    np.testing.assert_array_equal(conv, kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(file["text_projection.weight"], text["projection"]["kernel"].T)
    openai = load_file(saved(tmp_path / "o", OPENAI, theta))
    stacked = [file[f"text_model.encoder.layers.1.self_attn.{name}_proj.weight"] for name in "qkv"]
    np.testing.assert_array_equal(openai["transformer.resblocks.1.attn.in_proj_weight"], np.concatenate(stacked))
    np.testing.assert_array_equal(openai["text_projection"], text["projection"]["kernel"])


@pytest.mark.parametrize("name", ["SAME", "VECTOR", "LINEAR", "LINEAR_OUT", "CONV", "PATCHES", "leading"])
def test_a_layout_is_a_view(name):
    """Tensors are written into parameters through it: a copy would leave them as they were."""
    layout = weights.leading(2) if name == "leading" else getattr(weights, name)
    parameter = np.zeros({"CONV": (2, 2, 3, 5), "PATCHES": (12, 5)}.get(name, (4, 3, 5)))
    shape = layout.shape(parameter.shape)
    view = layout.view(parameter, shape)
    assert view.shape == shape and np.shares_memory(view, parameter)


def test_one_error_lists_every_problem(tmp_path, sizes, theta):
    path = saved(tmp_path / "w", hugging_face.CLIP, theta)
    missing = ("logit_scale", "text_model.encoder.layers.1.mlp.fc2.bias")
    unknown = ("text_model.encoder.layers.2.mlp.fc2.bias", "head.weight")
    misshapen = ("visual_projection.weight", "text_model.embeddings.position_embedding.weight")

    def change(tensors):
        for key in missing:
            del tensors[key]
        for key in unknown:
            tensors[key] = np.zeros(3, np.float32)
        for key in misshapen:
            tensors[key] = np.ascontiguousarray(tensors[key].T[:5])

    edit(path, change)
    with pytest.raises(InputError) as error:
        load(hugging_face.CLIP, sizes, path)
    message = str(error.value)
    assert "6 problems" in message
    for problem in (*(f"missing tensor {key}" for key in missing), *(f"unknown tensor {key}" for key in unknown)):
        assert problem in message
    for key in misshapen:
        assert f"{key} has shape [5, " in message


def test_a_transposed_tensor_is_refused(tmp_path, sizes, theta):
    """The visual projection [e, d] has as many elements as its transpose."""
    path = saved(tmp_path / "w", hugging_face.CLIP, theta)
    key = "visual_projection.weight"
    edit(path, lambda tensors: tensors.update({key: np.ascontiguousarray(tensors[key].T)}))
    with pytest.raises(InputError, match=r"visual_projection.weight has shape \[16, 24\], not \[24, 16\]"):
        load(hugging_face.CLIP, sizes, path)


@pytest.mark.parametrize(
    ("scheme", "key"),
    [
        (hugging_face.CLIP, "text_model.embeddings.position_ids"),
        (hugging_face.CLIP, "vision_model.embeddings.position_ids"),
        (OPENAI, "input_resolution"),
        (OPENAI, "vocab_size"),
    ],
)
def test_buffers_that_hold_no_parameter_are_passed_over(tmp_path, sizes, theta, scheme, key):
    path = saved(tmp_path / "w", scheme, theta)
    edit(path, lambda tensors: tensors.update({key: np.arange(3)}))
    assert_equal(load(scheme, sizes, path), theta)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_temperature_with_or_without_an_axis(tmp_path, scheme, sizes, theta, shape):
    path = saved(tmp_path / "w", scheme, theta)
    edit(path, lambda tensors: tensors.update(logit_scale=np.full(shape, 1.5, np.float32)))
    loaded = load(scheme, sizes, path)["logit_scale"]
    assert loaded.shape == () and float(loaded) == 1.5


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_files_load_as_float32(tmp_path, scheme, sizes, theta, stored):
    path = tmp_path / "w"
    half = jax.tree.map(lambda x: np.asarray(x).astype(jnp.dtype(stored)), theta)
    weights.save_weights(path, scheme, half)
    loaded = load(scheme, sizes, path)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    assert_equal(loaded, jax.tree.map(lambda x: x.astype(np.float32), half))


def test_quantised_weights_are_refused(tmp_path, scheme, sizes, theta):
    """Cast to floats they would be a CLIP of whole numbers."""
    path = saved(tmp_path / "w", scheme, theta)
    edit(path, lambda tensors: tensors.update({key: x.astype(np.int8) for key, x in tensors.items()}))
    with pytest.raises(InputError, match=r"tensor .*token_embedding.weight of .*w is quantised \(int8\)"):
        load(scheme, sizes, path)


def test_long_lists_of_problems_are_cut(tmp_path, scheme, sizes, theta):
    path = saved(tmp_path / "w", scheme, theta)
    edit(path, lambda content: [content.update({f"x.{key}": content.pop(key)}) for key in list(content)])
    with pytest.raises(InputError, match=r"\(\d{2,} problems\)") as error:
        load(scheme, sizes, path)
    assert str(error.value).count("missing tensor") == 10 and str(error.value).endswith("more")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "float64"])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, scheme, sizes, theta, value, place, stored):
    """Wherever it is, also where the whole is read block by block."""
    path = saved(tmp_path / "w", scheme, jax.tree.map(lambda x: np.asarray(x).astype(jnp.dtype(stored)), theta))
    keys = sorted(load_file(path))
    key = keys[(place * 7) % len(keys)]

    def change(content):
        array = content[key].copy()
        array.flat[place if array.size > 1 else 0] = value
        content[key] = array

    edit(path, change)
    with pytest.raises(InputError, match=rf"tensor {key} of weight file .*w is not finite"):
        load(scheme, sizes, path)


def test_what_leaves_float32_is_not_finite(tmp_path, scheme, sizes, theta):
    path = saved(tmp_path / "w", scheme, theta)
    key = "logit_scale"
    edit(path, lambda content: content.update({key: np.full((), 1e300)}))
    with pytest.raises(InputError, match=f"{key} .* is not finite"):
        load(scheme, sizes, path)


@pytest.mark.parametrize("value", [10.0, 14.2857, 100.0, 1000.0])
def test_a_temperature_stored_as_its_exponential_is_recognised(tmp_path, scheme, sizes, theta, value):
    path = saved(tmp_path / "w", scheme, theta)
    edit(path, lambda content: content.update(logit_scale=np.full((), value, np.float32)))
    words = f"tensor logit_scale .*w is {value:g}.* save its logarithm, {np.log(value):.4f}"
    with pytest.raises(InputError, match=words):
        load(scheme, sizes, path)


@pytest.mark.parametrize(("value", "warned"), [(0.01, True), (0.07, True), (0.0, True), (2.7, False), (4.7, 0)])
def test_a_temperature_that_tells_nothing_is_named(tmp_path, scheme, sizes, theta, caplog, value, warned):
    """Such as its inverse, 0.01 for 100."""
    path = saved(tmp_path / "w", scheme, theta)
    edit(path, lambda content: content.update(logit_scale=np.full((), value, np.float32)))
    assert load(scheme, sizes, path)["logit_scale"] == np.float32(value)
    assert ("logit_scale" in caplog.text) == warned


def test_temperature_stays_in_float32(tmp_path, scheme, sizes, theta):
    loaded = load(scheme, sizes, saved(tmp_path / "w", scheme, theta), dtype=jnp.bfloat16)
    assert loaded.pop("logit_scale").dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("bfloat16")}


# ------------------------------------------------------------------------------------------------ files


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "truncated": (truncated, "truncated"),
    "no header": (lambda path: path.write_bytes(path.read_bytes()[:20]), "truncated"),
    "a few bytes": (lambda path: path.write_bytes(path.read_bytes()[:5]), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n" * 9), "git lfs pull"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "neither a safetensors file nor an arch"),
    "missing": (lambda path: path.unlink(), "does not exist"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(tmp_path, sizes, theta, damage):
    path = saved(tmp_path / "model.safetensors", hugging_face.CLIP, theta)
    do, words = DAMAGE[damage]
    do(path)
    with pytest.raises(InputError, match=f"model.safetensors.*{words}"):
        load(hugging_face.CLIP, sizes, path)


@pytest.fixture
def sharded(tmp_path, theta):
    """A folder with the tensors dealt to two files, and the index that names them."""
    whole = saved(tmp_path / "whole", hugging_face.CLIP, theta)
    tensors = load_file(whole)
    whole.unlink()
    keys = sorted(tensors)
    names = {key: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, key in enumerate(keys)}
    for name in set(names.values()):
        save_file({key: tensors[key] for key in keys if names[key] == name}, tmp_path / name)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_shards_are_one_checkpoint(sharded, sizes, theta):
    files = tensors.files_of(sharded)
    assert [file.name for file in files] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert_equal(load(hugging_face.CLIP, sizes, *files), theta)


def test_a_tensor_of_two_shards_is_named(sharded):
    files = tensors.files_of(sharded)
    key, value = next(iter(load_file(files[0]).items()))
    edit(files[1], lambda content: content.update({key: value}))
    with pytest.raises(InputError, match=f"two tensors {key}, one of them in .*2-of-00002"):
        tensors.index(files)


def test_a_missing_shard_is_named(sharded, sizes):
    files = tensors.files_of(sharded)
    files[1].unlink()
    with pytest.raises(InputError, match="model-00002-of-00002.safetensors does not exist"):
        load(hugging_face.CLIP, sizes, *files)


@pytest.mark.parametrize("content", ["{", "[]", '{"metadata": {}}'], ids=["no JSON", "a list", "no weight map"])
def test_a_damaged_index_is_named(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="model.safetensors.index.json"):
        tensors.files_of(sharded)


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} has no weights"):
        tensors.files_of(tmp_path)


def test_fingerprint_changes_with_one_byte(tmp_path, theta):
    a = saved(tmp_path / "a", hugging_face.CLIP, theta)
    b = tmp_path / "b"
    content = bytearray(a.read_bytes())
    b.write_bytes(content)
    assert tensors.fingerprint([a]) == tensors.fingerprint([b])
    assert tensors.fingerprint([a]) != tensors.fingerprint([a, b])
    content[-1] ^= 1
    b.write_bytes(content)
    assert tensors.fingerprint([a]) != tensors.fingerprint([b])
