"""Weight files: which of a folder are chosen, and that reading them takes the memory of what they become."""

import ctypes
import gc
import json
import re
from pathlib import Path

import archives
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


def test_a_scalar_may_have_an_axis(tmp_path):
    save_file({"a": np.ones(1, np.float32), "b": np.full((), 2, np.float32)}, tmp_path / "a")
    found = tensors.index([tmp_path / "a"])
    for key, target in (("a", np.zeros(())), ("b", np.zeros(1))):
        found[key].copy_to(target)
    assert found["a"].read() == 1 and target == 2


# ------------------------------------------------------------------------------------------------ memory


def resident(line):
    """Of this process, in bytes: VmRSS now, or VmHWM at most since `forget_peak`."""
    return int(re.search(rf"{line}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def forget_peak():
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what others have freed is there to be used again
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pytest.skip("only Linux tells the greatest memory of a part of a process")


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
    forget_peak()
    before = resident("VmRSS")
    theta = pretrained.load(str(folder)).theta
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(theta))
    assert size > 80e6
    assert resident("VmHWM") - before < 1.25 * size
