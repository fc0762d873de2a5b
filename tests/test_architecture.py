"""Sizes from config.json and from the shapes of a checkpoint."""

import copy
import dataclasses

import pytest
import tiny_clips

from pini_jax.clip import architecture
from pini_jax.errors import InputError


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
        architecture.Text(text.vocab_size, text.max_position_embeddings, transformer(text, causal=True)),
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
    ],
    ids=["empty", "no_text", "text_and_image", "layers", "old_keys", "old_and_new_keys"],
)
def test_what_is_left_out_is_what_transformers_takes(settings):
    ours = architecture.from_hugging_face(settings | {"model_type": "clip"})
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
    written = architecture.to_hugging_face(sizes, start_id=7, end_id=8)
    assert architecture.from_hugging_face(written) == sizes
    assert transformers_sizes(written) == sizes


def test_token_ids_are_written():
    written = architecture.to_hugging_face(tiny_clips.sizes(), start_id=7, end_id=8)["text_config"]
    assert (written["bos_token_id"], written["eos_token_id"]) == (7, 8)


@pytest.mark.parametrize("settings", [{"model_type": "siglip"}, {}], ids=["siglip", "none"])
def test_other_models_are_refused(settings):
    with pytest.raises(InputError, match=str(settings.get("model_type"))):
        architecture.from_hugging_face(settings)


def openai_shapes(grid, patch, width, layers, text_width, text_layers, embed_dim, vocabulary=49408, context=77):
    """Only the tensors that sizes can be read from; a layer is known by any of its tensors."""
    return {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.positional_embedding": (grid**2 + 1, width),
        "text_projection": (text_width, embed_dim),
        "token_embedding.weight": (vocabulary, text_width),
        "positional_embedding": (context, text_width),
        **{f"visual.transformer.resblocks.{i}.ln_1.weight": (width,) for i in range(layers)},
        **{f"visual.transformer.resblocks.{i}.ln_2.weight": (width,) for i in range(layers)},
        **{f"transformer.resblocks.{i}.ln_1.weight": (text_width,) for i in range(text_layers)},
    }


# As published: (grid, patch, width, layers, text width, text layers, e), and (pixels, heads, text heads).
PUBLISHED = {
    "ViT-B/32": ((7, 32, 768, 12, 512, 12, 512), (224, 12, 8)),
    "ViT-B/16": ((14, 16, 768, 12, 512, 12, 512), (224, 12, 8)),
    "ViT-L/14@336px": ((24, 14, 1024, 24, 768, 12, 768), (336, 16, 12)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_openai_sizes(name):
    given, (pixels, heads, text_heads) = PUBLISHED[name]
    _, patch, width, layers, text_width, text_layers, embed_dim = given
    sizes = architecture.from_openai(openai_shapes(*given))
    assert sizes == architecture.Architecture(
        architecture.Image(pixels, patch, architecture.Transformer(width, layers, heads, 4 * width)),
        architecture.Text(
            49408, 77, architecture.Transformer(text_width, text_layers, text_heads, 4 * text_width, causal=True)
        ),
        embed_dim,
    )
    assert sizes.image.num_patches == given[0] ** 2


@pytest.mark.parametrize("key", ["visual.positional_embedding", "text_projection", "token_embedding.weight"])
def test_a_missing_openai_tensor_is_named(key):
    shapes = openai_shapes(7, 32, 64, 1, 64, 1, 64)
    del shapes[key]
    with pytest.raises(InputError, match=key):
        architecture.from_openai(shapes)
