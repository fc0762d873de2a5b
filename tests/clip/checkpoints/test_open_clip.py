"""Sizes from the shapes of OpenAI's checkpoints, and from open_clip_config.json."""

import pytest

from pini_jax.clip import architecture
from pini_jax.clip.checkpoints import open_clip
from pini_jax.core.errors import InputError


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
    sizes = open_clip.read_shapes(openai_shapes(*given))
    assert sizes == architecture.Architecture(
        architecture.Image(pixels, patch, architecture.Transformer(width, layers, heads, 4 * width)),
        architecture.TextSizes(
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
        open_clip.read_shapes(shapes)


def test_a_width_that_openai_never_published_wants_a_config():
    """H/14 has heads of 80 channels, which shapes do not tell."""
    with pytest.raises(InputError, match=r"width 1280.*open_clip_config.json"):
        open_clip.read_shapes(openai_shapes(16, 14, 1280, 1, 1024, 1, 1024))


# As in open_clip's model_configs: (vision_cfg, text_cfg, embed_dim), and what they mean.
CONFIGS = {
    "ViT-H-14": (
        dict(image_size=224, layers=32, width=1280, head_width=80, patch_size=14),
        dict(context_length=77, vocab_size=49408, width=1024, heads=16, layers=24),
        1024,
        architecture.Transformer(1280, 32, 16, 5120, "gelu"),
        architecture.Transformer(1024, 24, 16, 4096, "gelu", causal=True),
    ),
    "ViT-g-14": (
        dict(image_size=224, layers=40, width=1408, head_width=88, mlp_ratio=4.3637, patch_size=14),
        dict(context_length=77, vocab_size=49408, width=1024, heads=16, layers=24),
        1024,
        architecture.Transformer(1408, 40, 16, 6144, "gelu"),
        architecture.Transformer(1024, 24, 16, 4096, "gelu", causal=True),
    ),
}


def config(image, text, embed_dim, **others):
    return {"model_cfg": dict(embed_dim=embed_dim, vision_cfg=image, text_cfg=text, **others)}


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_of_a_config(name):
    image, text, embed_dim, image_transformer, text_transformer = CONFIGS[name]
    sizes = open_clip.read_open_clip_config(config(image, text, embed_dim))
    assert sizes == architecture.Architecture(
        architecture.Image(224, 14, image_transformer),
        architecture.TextSizes(49408, 77, text_transformer),
        embed_dim,
    )
    quick = open_clip.read_open_clip_config(config(image, text, embed_dim, quick_gelu=True))
    assert quick.image.transformer.activation == quick.text.transformer.activation == "quick_gelu"


def test_a_residual_tower():
    image = dict(image_size=288, layers=[4, 6, 10, 6], width=80, patch_size=None)
    sizes = open_clip.read_open_clip_config(config(image, dict(width=640, heads=10), 640))
    assert sizes.image == architecture.ResNet(288, 80, (4, 6, 10, 6), 40)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_base_patch16_siglip_224", (16, 768, 12, "gelu")),
        ("vit_large_patch16_siglip_384", (16, 1024, 16, "gelu")),
        ("vit_large_patch16_siglip_512", (16, 1024, 16, "gelu_pytorch_tanh")),
        ("vit_so400m_patch14_siglip_378", (14, 1152, 16, "gelu")),
        ("vit_so400m_patch16_siglip_256", (16, 1152, 16, "gelu_pytorch_tanh")),
    ],
)
def test_siglip_by_the_name_of_its_trunk(name, expected):
    image = dict(image_size=256, timm_model_name=name, timm_pool="map", timm_proj="none")
    text = dict(context_length=64, no_causal_mask=True, proj_bias=True, pool_type="last")
    sizes = open_clip.read_open_clip_config(config(image, text, 768, init_logit_bias=-10))
    trunk = sizes.image.transformer
    assert (sizes.image.patch_size, trunk.width, trunk.heads, trunk.activation) == expected
    assert (sizes.image.pool, sizes.image.class_token, trunk.epsilon) == ("attention", False, 1e-6)
    assert (sizes.text.pool, sizes.text.transformer.causal, sizes.logit_bias) == ("last", False, True)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("vision_cfg", "ls_init_value", 1e-5),
        ("vision_cfg", "attentional_pool", True),
        ("vision_cfg", "pool_type", "none"),
        ("vision_cfg", "timm_model_name", "convnext_base"),
        ("vision_cfg", "qk_norm", True),
        ("vision_cfg", "something_new", 3),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "embed_cls", True),
        ("text_cfg", "pool_type", "first"),
    ],
)
def test_what_is_not_built_is_named(section, key, value):
    settings = config({}, {}, 512)
    settings["model_cfg"][section][key] = value
    with pytest.raises(InputError, match=f"open_clip_config.json: .*{value}"):
        open_clip.read_open_clip_config(settings)


@pytest.mark.parametrize("settings", [{}, {"model_cfg": []}, {"model_cfg": {"vision_cfg": 3}}])
def test_a_file_that_is_no_config_is_refused(settings):
    with pytest.raises(InputError, match="open_clip_config.json"):
        open_clip.read_open_clip_config(settings)
