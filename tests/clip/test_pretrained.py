"""A folder that is not what it should be is one clear line, whatever its config.json says."""

import json

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
    ("vision_config", "image_size", 10**12, "does not hold this CLIP|position"),
    ("vision_config", "patch_size", 0, "patch_size is 0|does not describe"),
    ("vision_config", "patch_size", 40, "too small"),
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
    source = edited("config.json", lambda content: content[section].update({key: value}))
    with pytest.raises(InputError, match=words) as error:
        pretrained.load(source)
    assert "\n" not in str(error.value) and "InputError(" not in str(error.value)


def test_the_file_at_fault_is_named(edited):
    change = {"image_processor_type": "ViTImageProcessor"}
    source = edited("preprocessor_config.json", lambda content: content.update(change))
    with pytest.raises(InputError) as error:
        pretrained.load(source)
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
    assert pretrained.load(edited(name, lambda content: content.update(settings))).tokenizer.end_id


def test_images_of_another_size_than_the_tower_want_a_choice(edited):
    source = edited("preprocessor_config.json", lambda content: content.update(crop_size=20, size=20))
    with pytest.raises(InputError, match="images of 20 pixels, but its tower reads 12: set image_size"):
        pretrained.load(source)
    assert pretrained.load(source, image_size=20).image_tower.sizes.image_size == 20


def test_a_tokenizer_is_named_by_its_folder(folder):
    with pytest.raises(InputError, match="is no folder"):
        pretrained.load(str(folder), str(folder / "tokenizer.json"))


def test_a_wrapped_state_dict_is_told_from_a_missing_config(tmp_path):
    """As training scripts save it."""
    save_file({"state_dict.module.visual.proj": np.zeros((2, 2), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="begin with 'state_dict.module.'"):
        pretrained.load(str(tmp_path / "w.safetensors"))
