"""Sizes from config.json, and back."""

import copy
import dataclasses

import pytest
import tiny_clips

from pini_jax.clip import architecture
from pini_jax.clip.checkpoints import hugging_face
from pini_jax.core.errors import InputError


def transformers_sizes(settings):
    """What transformers makes of the same config.json."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(**copy.deepcopy(settings))  # which writes into what it is given

    def transformer(section, causal):
        return architecture.Transformer(
            section.hidden_size,
            section.num_hidden_layers,
            section.num_attention_heads,
            section.intermediate_size,
            section.hidden_act,
            section.layer_norm_eps,
            causal,
        )

    text, image = config.text_config, config.vision_config
    return architecture.Architecture(
        architecture.Image(image.image_size, image.patch_size, transformer(image, causal=False)),
        architecture.TextSizes(text.vocab_size, text.max_position_embeddings, transformer(text, causal=True)),
        config.projection_dim,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"projection_dim": 40, "text_config": None},
        {"text_config": {"hidden_size": 64, "hidden_act": "gelu"}, "vision_config": {"patch_size": 16}},
        {"vision_config": {"num_hidden_layers": 3, "layer_norm_eps": 1e-6}, "text_config": {"vocab_size": 99}},
        {"text_config_dict": {"hidden_size": 64}, "vision_config_dict": {"image_size": 96}},
        {"text_config_dict": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "quick_gelu"}},
        {"text_config_dict": {"hidden_size": 64}, "text_config": {"hidden_act": "gelu", "hidden_size": 64}},
        {"vision_config_dict": None, "vision_config": {"hidden_act": "gelu"}},
    ],
    ids=[
        *("empty", "no_text", "text_and_image", "layers", "old_keys", "old_and_new_keys", "old_key_alone_counts"),
        "no_old_key",
    ],
)
def test_what_is_left_out_is_what_transformers_takes(settings):
    ours = hugging_face.read_hugging_face_config(settings | {"model_type": "clip"})
    assert ours == transformers_sizes(settings)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_round_trip(activation):
    sizes = tiny_clips.sizes(activation, image_size=20, context_length=9)
    sizes = dataclasses.replace(
        sizes,
        text=dataclasses.replace(
            sizes.text, transformer=dataclasses.replace(sizes.text.transformer, epsilon=1e-6)
        ),
    )
    written = hugging_face.write_config(sizes, start_id=7, end_id=8)
    assert hugging_face.read_hugging_face_config(written) == sizes
    assert transformers_sizes(written) == sizes


def test_token_ids_are_written():
    written = hugging_face.write_config(tiny_clips.sizes(), start_id=7, end_id=8)["text_config"]
    assert (written["bos_token_id"], written["eos_token_id"]) == (7, 8)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("siglip", {}),
        ("siglip", {"vision_config": {"image_size": 384, "patch_size": 14, "hidden_size": 1152}}),
        ("siglip", {"text_config": {"vocab_size": 256000, "hidden_size": 1152, "projection_size": 1536}}),
        ("siglip2", {}),
        ("siglip2", {"vision_config": {"num_patches": 400}}),
    ],
)
def test_siglip_s_defaults_are_those_of_transformers(kind, settings):
    transformers = pytest.importorskip("transformers")
    config_class = {"siglip": transformers.SiglipConfig, "siglip2": transformers.Siglip2Config}[kind]
    config = config_class(**copy.deepcopy(settings))
    ours = hugging_face.read_hugging_face_config(settings | {"model_type": kind})
    for section, tower in ((config.text_config, ours.text), (config.vision_config, ours.image)):
        assert tower.transformer == architecture.Transformer(
            section.hidden_size,
            section.num_hidden_layers,
            section.num_attention_heads,
            section.intermediate_size,
            section.hidden_act,
            section.layer_norm_eps,
        )
    text = config.text_config
    assert (ours.text.vocab_size, ours.text.context_length) == (text.vocab_size, text.max_position_embeddings)
    assert (ours.embed_dim, ours.text.pool, ours.logit_bias) == (text.projection_size, "last", True)
    assert ours.image.patch_size == config.vision_config.patch_size
    patches = getattr(config.vision_config, "num_patches", (ours.image.image_size // ours.image.patch_size) ** 2)
    assert ours.image.num_patches == patches


def test_a_siglip_without_a_head_is_refused():
    with pytest.raises(InputError, match="vision_use_head"):
        hugging_face.read_hugging_face_config(
            {"model_type": "siglip", "vision_config": {"vision_use_head": False}}
        )


@pytest.mark.parametrize("settings", [{"model_type": "blip"}, {}], ids=["blip", "none"])
def test_other_models_are_refused(settings):
    with pytest.raises(InputError, match=str(settings.get("model_type"))):
        hugging_face.read_hugging_face_config(settings)
