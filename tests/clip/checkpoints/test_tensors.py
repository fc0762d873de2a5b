"""Weight files: which of a folder are chosen, and that reading them takes the memory of what they become."""

import json
import os

import archives
import bounds
import jax
import numpy as np
import pytest
import tiny_clips
from safetensors.numpy import load_file, save_file

from pini_jax.clip import pretrained
from pini_jax.clip.checkpoints import tensors
from pini_jax.core.errors import InputError

CLIP, TIMM = '{"model_type": "clip"}', '{"architecture": "vit_base_patch16_clip_224"}'


def folder_of(path, *names, **configs):
    """Empty weight files, and configs by the names of their files without .json."""
    for name in names:
        (path / name).touch()
    for name, content in configs.items():
        (path / f"{name}.json").write_text(content)
    return path


@pytest.mark.parametrize(
    ("configs", "names"),
    [
        # Each row in order of preference.
        ({"config": CLIP}, tensors.HUGGING_FACE + tensors.OPEN_CLIP),
        ({"config": CLIP, "open_clip_config": "{}"}, tensors.HUGGING_FACE + tensors.OPEN_CLIP),
        ({"config": TIMM, "open_clip_config": "{}"}, tensors.OPEN_CLIP + tensors.HUGGING_FACE),
        ({"open_clip_config": "{}"}, tensors.OPEN_CLIP + tensors.HUGGING_FACE),
    ],
    ids=["clip", "both", "timm", "open_clip"],
)
def test_the_config_decides_between_names(tmp_path, configs, names):
    folder = folder_of(tmp_path, *names, "onnx.bin", **configs)
    for name in names:
        if name.endswith(".json"):
            (folder / name).write_text('{"weight_map": {"a": "1.bin", "b": "2.bin", "c": "1.bin"}}')
        expected = ["1.bin", "2.bin"] if name.endswith(".json") else [name]
        assert [path.name for path in tensors.files_of(folder)] == expected
        (folder / name).unlink()
    with pytest.raises(InputError, match=f"has no weights: {names[0]} is missing"):
        tensors.files_of(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="has no weights but an adapter of PEFT's: merge_and_unload"):
        tensors.files_of(folder)


def test_files_may_be_chosen_before_they_are_there(tmp_path):
    folder = folder_of(tmp_path, config=CLIP)
    chosen = tensors.files_of(folder, ["pytorch_model.bin", "open_clip_model.safetensors", "README.md"])
    assert chosen == [folder / "pytorch_model.bin"]


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b", "", ".."])
def test_an_index_names_files_of_its_own_folder(tmp_path, name):
    folder = folder_of(tmp_path, config=CLIP)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="model.safetensors.index.json is damaged"):
        tensors.files_of(folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (1,), (70,), (70, 3), (33, 2, 5)], ids=str)
def test_blocks_make_the_whole(tmp_path, monkeypatch, suffix, shape):
    """Into targets of other layouts and dtypes."""
    monkeypatch.setattr(tensors, "BLOCK", 100)
    value = np.random.default_rng(0).standard_normal(shape, np.float32)
    path = tmp_path / f"a{suffix}"
    if suffix == ".bin":
        archives.write_tensors(path, {"a": np.asarray(value)})
    else:
        save_file({"a": np.asarray(value)}, path)
    found = tensors.index([path])["a"]
    for target in (
        np.zeros(shape, np.float32),
        np.zeros(shape[::-1], np.float16).T,
        np.zeros((*shape, 2))[..., 0],
    ):
        found.copy_to(target)
        np.testing.assert_array_equal(target, value.astype(target.dtype))


def test_what_numpy_cannot_hold_is_named(tmp_path):
    header = json.dumps({"a": dict(dtype="F8_E4M3", shape=[4], data_offsets=[0, 4])}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(InputError, match="tensor a of weight file .*a.safetensors cannot be read .*float8_e4m3"):
        tensors.index([tmp_path / "a.safetensors"])["a"].copy_to(np.zeros(4))


ENDINGS = ["model.safetensors", "pytorch_model.bin", "ViT-B-32.PT", "last.ckpt", "model.pth.tar-50", "clip"]


@pytest.mark.parametrize("write", [archives.write_tensors, lambda path, values: save_file(values, path)])
@pytest.mark.parametrize("name", ENDINGS)
def test_the_first_bytes_say_what_a_file_is(tmp_path, name, write):
    write(tmp_path / name, {"a": np.arange(6, dtype=np.float32)})
    np.testing.assert_array_equal(tensors.index([tmp_path / name])["a"].read(), np.arange(6))


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "PyTorch wrote before 1.6"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\0", "array of NumPy"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"GGUF\x03", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_other_files_are_said_to_be_what_they_are(tmp_path, name, start, words):
    (tmp_path / name).write_bytes(start + bytes(1000))
    with pytest.raises(InputError, match=f"{name} is .*{words}.* model.safetensors"):
        tensors.index([tmp_path / name])


def pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize("make", [pipe, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_only_regular_files_are_opened(tmp_path, make):
    make(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="model.safetensors is no regular file"):
        tensors.index([tmp_path / "model.safetensors"])


def header(tmp_path, content, data=b"", length=None):
    """A safetensors file with this header."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    length = len(content) if length is None else length
    (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + content + data)
    return tmp_path / "a"


def entry(start=0, stop=4, shape=(1,), dtype="F32"):
    return dict(dtype=dtype, shape=list(shape), data_offsets=[start, stop])


LIES = {
    "a header of 2^32 bytes": (b"{}", b"", 2**32 - 1, "at most 1,048,576 are read"),
    "a header of 2^63 bytes": (b"{}", b"", 2**63 - 1, "truncated"),
    "a header that is longer than the file": (b"{}", b"", 100, "truncated"),
    "bytes beyond the file": ({"a": entry(0, 400, (100,))}, bytes(4), None, "truncated"),
    "bytes that nobody names": ({"a": entry()}, bytes(400), None, "truncated"),
    "overlapping bytes": ({"a": entry(0, 8, (2,)), "b": entry(4, 12, (2,))}, bytes(12), None, "truncated"),
    "the same bytes twice": ({"a": entry(), "b": entry()}, bytes(4), None, "truncated"),
    "a hole": ({"a": entry(), "b": entry(8, 12)}, bytes(12), None, "truncated"),
    "the end before the start": ({"a": entry(4, 0)}, bytes(4), None, "truncated"),
    "a shape of more bytes": ({"a": entry(0, 4, (2**20, 2**20))}, bytes(4), None, "truncated"),
    "a shape that overflows": ({"a": entry(0, 4, (2**62, 4))}, bytes(4), None, "truncated"),
    "a negative shape": ({"a": entry(0, 4, (-1, -1))}, bytes(4), None, "truncated"),
    "an unknown dtype": ({"a": entry(dtype="Z" * 10**6)}, bytes(4), None, "truncated"),
    "brackets in brackets": (b'{"a":' + b"[" * 10**6, b"", None, "truncated"),
    "no JSON": (b"{" + bytes(100), b"", None, "truncated"),
    "control characters": ({"a\x1b[2J": entry()}, bytes(4), None, "name is no name"),
    "a long name": ({"a" * 2000: entry()}, bytes(4), None, "name is no name"),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused(tmp_path, lie):
    content, data, length, words = LIES[lie]
    path = header(tmp_path, content, data, length)
    with bounds.bounded(memory=1 << 27, seconds=5), pytest.raises(InputError, match=words) as error:
        tensors.index([path])
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


def test_a_scalar_may_have_an_axis(tmp_path):
    save_file({"a": np.ones(1, np.float32), "b": np.full((), 2, np.float32)}, tmp_path / "a")
    found = tensors.index([tmp_path / "a"])
    for key, target in (("a", np.zeros(())), ("b", np.zeros(1))):
        found[key].copy_to(target)
    assert found["a"].read() == 1 and target == 2


# ------------------------------------------------------------------------------------------------ memory


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A CLIP of 80 MB: more than what loading takes whatever the size."""
    widths = dict(image_width=512, text_width=512, heads=8, layers=4, embed_dim=512)
    return tiny_clips.hugging_face_folder(tmp_path_factory.mktemp("large"), **widths)


@pytest.mark.parametrize("stored", ["float32", "float16", "archive"])
def test_a_clip_goes_to_the_device_in_one_copy(large, tmp_path, stored):
    folder = tmp_path / "clip"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        (folder / name).symlink_to(large / name)
    weights = load_file(large / "model.safetensors")
    if stored == "archive":
        archives.write_tensors(folder / "pytorch_model.bin", weights)
    else:
        save_file({key: x.astype(stored) for key, x in weights.items()}, folder / "model.safetensors")
    del weights
    bounds.trim()
    bounds.forget_peak()
    before = bounds.resident("VmRSS")
    theta = pretrained.load_clip(str(folder)).theta
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(theta))
    assert size > 80e6
    assert bounds.resident("VmHWM") - before < 1.25 * size
