"""A folder that is not what it should be is one clear line, whatever its config.json says."""

import json
import os
import re

import bounds
import numpy as np
import pytest
import tiny_clips
from safetensors.numpy import save_file

from pini_jax.clip import pretrained
from pini_jax.core.errors import InputError

# (section of config.json, key, value, words of the error)
ODD = [
    ("text_config", "layer_norm_eps", None, "layer_norm_eps is None"),
    ("vision_config", "layer_norm_eps", "1e-5", "layer_norm_eps is '1e-5'"),
    ("text_config", "layer_norm_eps", -1, "layer_norm_eps is -1"),
    ("vision_config", "hidden_act", ["gelu"], r"activation \['gelu'\]"),
    ("text_config", "num_attention_heads", "2", "text heads is '2'"),
    ("text_config", "num_attention_heads", 3, "3 heads do not divide"),
    ("vision_config", "image_size", [12, 12], "image_size|does not describe"),
    ("vision_config", "image_size", 10**12, "image_size is 1000000000000, not a whole number from 1 to 16,384"),
    ("vision_config", "image_size", 2**14, "does not hold this CLIP.*position"),
    ("vision_config", "num_hidden_layers", 10**9, "vision layers is 1000000000, not a whole number from 1 to 256"),
    ("text_config", "num_hidden_layers", 256, "does not hold this CLIP .* problems.* more$"),
    ("text_config", "hidden_size", 10**15, "text width is 1000000000000000, not"),
    ("text_config", "hidden_size", 2**20, "does not hold this CLIP"),
    ("vision_config", "intermediate_size", 2**62, "vision mlp_width"),
    ("text_config", "vocab_size", 2**31, "vocab_size"),
    ("text_config", "vocab_size", 2**20, "token_embedding.weight has shape"),
    ("text_config", "max_position_embeddings", 2**20, "position_embedding.weight has shape"),
    ("text_config", "hidden_size", 10**4000, r"text width is 1000.*\.\.\..*000, not"),
    ("vision_config", "hidden_act", "x" * 10**6, r"activation 'xxx.*\.\.\..*xxx' is none of"),
    ("vision_config", "patch_size", 0, "patch_size is 0|does not describe"),
    ("vision_config", "patch_size", 40, "too small"),
]

# Of the same for open_clip, whose layers and widths are computed with.
ODD_OPEN_CLIP = [
    ({"vision_cfg": {"layers": [3, 4, 6, 10**9]}}, "blocks of stage 4 is 1000000000"),
    ({"vision_cfg": {"layers": [1] * 10**5}}, "four stages, not 100000"),
    ({"vision_cfg": {"layers": "12"}}, "blocks of stage 1 is '1'"),
    ({"vision_cfg": {"width": "a" * 10**5, "mlp_ratio": 10**9}}, "vision_cfg.width must be a number"),
    ({"text_cfg": {"width": [1] * 10**5, "mlp_ratio": 10**9}}, "text_cfg.width must be a number"),
    ({"vision_cfg": {"width": 10**300, "mlp_ratio": 1e300}}, "does not describe a CLIP"),
    ({"vision_cfg": {"head_width": 0}}, "does not describe a CLIP"),
    ({"embed_dim": 10**18}, "projection_dim is 1000000000000000000, not"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clips.hugging_face_folder(tmp_path_factory.mktemp("clip"), layers=1)


@pytest.fixture
def edited(folder, tmp_path):
    """(file, change) -> a copy of the folder in which the change was made to a JSON file."""

    def edit(name, change):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        content = json.loads((tmp_path / name).read_text()) if (tmp_path / name).exists() else {}
        change(content)
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path)

    return edit


@pytest.mark.parametrize(("section", "key", "value", "words"), ODD)
def test_odd_configs_are_one_line(edited, section, key, value, words):
    """Nothing is allocated for a number of a file."""
    source = edited("config.json", lambda content: content[section].update({key: value}))
    with bounds.bounded(memory=1 << 28), pytest.raises(InputError, match=words) as error:
        pretrained.load_clip(source)
    assert "\n" not in str(error.value) and "InputError(" not in str(error.value)
    assert len(str(error.value)) < 2500


@pytest.mark.parametrize(("change", "words"), ODD_OPEN_CLIP)
def test_odd_configs_of_open_clip_are_one_line(tmp_path, change, words):
    save_file({"visual.proj": np.zeros((2, 2), np.float32)}, tmp_path / "open_clip_model.safetensors")
    model = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}} | change
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    with bounds.bounded(memory=1 << 28), pytest.raises(InputError, match=words) as error:
        pretrained.load_clip(str(tmp_path))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("size", 10**9, "from 1 to 16,384, not 1000000000"),
        ("crop_size", {"height": 10**9, "width": 10**9}, "from 1 to 16,384"),
        ("image_mean", [123.675, 116.28, 103.53], "from -10 to 10"),
        ("image_std", [1e-300] * 3, "from 0.001 to 10"),
        ("image_mean", [10**400] * 3, "from -10 to 10"),
        ("size", {"shortest_edge": "x" * 10**6}, r"not 'xxx.*\.\.\."),
    ],
)
def test_odd_numbers_of_the_preprocessor_are_one_line(edited, key, value, words):
    source = edited("preprocessor_config.json", lambda content: content.update({key: value}))
    with pytest.raises(InputError, match=words) as error:
        pretrained.load_clip(source)
    assert len(str(error.value)) < 1000


FILES = ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_only_regular_files_are_read(folder, tmp_path, name):
    for file in folder.iterdir():
        if file.name != name:
            (tmp_path / file.name).symlink_to(file)
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is no regular file"):
        pretrained.load_clip(str(tmp_path))


def test_a_device_is_no_checkpoint():
    with pytest.raises(InputError, match="/dev/zero is no regular file"):
        pretrained.load_clip("/dev/zero")


@pytest.mark.parametrize(
    "source", ["hf://owner/name", "gcs://bucket/clip", "https://host/clip.pt", "file:///a/clip"]
)
def test_other_stores_are_refused(folder, source):
    with pytest.raises(InputError, match=f"clip='{source}': only paths of this machine"):
        pretrained.load_clip(source)
    with pytest.raises(InputError, match=f"tokenizer='{source}': only paths of this machine"):
        pretrained.load_clip(str(folder), source)


def test_the_file_at_fault_is_named(edited):
    change = {"image_processor_type": "ViTImageProcessor"}
    source = edited("preprocessor_config.json", lambda content: content.update(change))
    with pytest.raises(InputError) as error:
        pretrained.load_clip(source)
    assert str(error.value).startswith("preprocessor_config.json")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": [1, 2]}),
        ("tokenizer_config.json", {"additional_special_tokens": 3}),
        ("open_clip_config.json", {"model_cfg": [1]}),
    ],
)
def test_odd_settings_of_the_tokenizer_are_passed_over(edited, name, settings):
    assert pretrained.load_clip(edited(name, lambda content: content.update(settings))).tokenizer.end_id


def test_images_of_another_size_than_the_tower_want_a_choice(edited):
    source = edited("preprocessor_config.json", lambda content: content.update(crop_size=20, size=20))
    with pytest.raises(InputError, match="images of 20 pixels, but its tower reads 12: set image_size"):
        pretrained.load_clip(source)
    assert pretrained.load_clip(source, image_size=20).image_tower.sizes.image_size == 20


def test_a_tokenizer_is_named_by_its_folder(folder):
    with pytest.raises(InputError, match="is no folder"):
        pretrained.load_clip(str(folder), str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("key", "prefix", "words"),
    [
        ("state_dict.module.visual.proj", "state_dict.module.", "without that prefix"),
        ("module.vision_model.embeddings.class_embedding", "module.", "without that prefix"),
        ("model.text_model.final_layer_norm.bias", "model.", "without that prefix"),
        ("_orig_mod.vision_model.post_layernorm.bias", "_orig_mod.", "without that prefix"),
    ],
)
def test_a_prefix_is_told_from_a_missing_config(tmp_path, key, prefix, words):
    """As training scripts save it: a hundred tensors, one line."""
    tensors = {f"{key}.{i}": np.zeros((2, 2), np.float32) for i in range(100)}
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=f"begin with {re.escape(repr(prefix))}.*{words}") as error:
        pretrained.load_clip(str(tmp_path / "w.safetensors"))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.text_model.final_layer_norm.bias",
        "vision_model.encoder.layers.0.self_attn.q_proj.base_layer.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.lora_A.default.weight",
    ],
)
def test_an_adapter_is_told(tmp_path, key):
    """With PEFT's prefix, or without it, as `inject_adapter_in_model` leaves it."""
    save_file({"logit_scale": np.zeros(()), key: np.zeros((2, 2), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="names (begin with|are such as) .*PEFT adapter, which merge_and_unload"):
        pretrained.load_clip(str(tmp_path / "w.safetensors"))
