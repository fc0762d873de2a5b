"""Pre-training of the bundled CLIP, and the checkpoint that it made."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from pini_jax.clip import pretrained, towers
from pini_jax.clip.checkpoints import hub
from pini_jax.core.errors import InputError
from pini_jax.data import transforms
from pini_jax.data.datasets import digits, records
from pini_jax.tiny_clip import glyphs, pretrain

CONFIG_FILE = Path(__file__).parent.parent.parent / "configs" / "tiny_clip.py"
MEGABYTE = 1 << 20
TEXTS = ["a photo of the digit three.", "x x x  Handwritten\tletter q", "naïve 漢字 12's!", ""]


def bundled_config() -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location("tiny_clip_config", CONFIG_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.fixture(scope="module", autouse=True)
def few_fonts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "FONTS", ("DejaVuSans", "cmr10", "cmtt10"))
        yield


@pytest.fixture(scope="module")
def recipe() -> pretrain.Recipe:
    """The bundled recipe, small and short."""
    return dataclasses.replace(
        pretrain.Recipe.from_config(bundled_config()),
        steps=30,
        warmup_steps=5,
        batch_size=64,
        curriculum_steps=1000,
        max_context=3,
        held_out_fonts=("cmtt10",),
        image_width=32,
        image_layers=1,
        text_width=32,
        text_layers=1,
        embed_dim=32,
    )


@pytest.fixture(scope="module")
def tokenizer():
    return pretrain.build_tokenizer()


@pytest.fixture(scope="module")
def trained(recipe, tokenizer):
    return pretrain.run_recipe(recipe, tokenizer)


@pytest.fixture(scope="module")
def folder(recipe, tokenizer, trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain") / "tiny_clip"
    pretrain.export_clip(folder, recipe, tokenizer, trained[0])
    return folder


def encode(tokenizer, texts: list[str]) -> tuple[jax.Array, jax.Array]:
    rows = [tokenizer.encode(text) for text in texts]
    longest = max(map(len, rows))
    ids = jnp.array([row + [tokenizer.end_id] * (longest - len(row)) for row in rows])
    return ids, jnp.array([len(row) - 1 for row in rows])


def features(clip: pretrained.Pretrained, pixels, texts: list[str]) -> tuple[jax.Array, jax.Array]:
    image = clip.image_tower.apply({"params": clip.theta["image"]}, pixels)
    return image, clip.text_tower.apply({"params": clip.theta["text"]}, *encode(clip.tokenizer, texts))


def random_pixels(clip: pretrained.Pretrained) -> np.ndarray:
    side = clip.preprocessing.crop
    return np.random.default_rng(0).normal(size=(3, side, side, 3)).astype(np.float32)


@pytest.mark.long
def test_loss_falls(trained):
    losses = trained[1]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


@pytest.mark.long
def test_same_seed_same_weights(recipe, tokenizer, trained):
    again, losses = pretrain.run_recipe(recipe, tokenizer)
    jax.tree.map(np.testing.assert_array_equal, again, trained[0])
    assert losses == trained[1]


@pytest.mark.long
def test_another_seed_other_weights(recipe, tokenizer):
    model = towers.ClipModel(recipe.architecture(tokenizer.vocab_size))
    one, other = (
        pretrain.initial_pretraining(dataclasses.replace(recipe, seed=seed), model).theta for seed in range(2)
    )
    assert not np.array_equal(one["image"]["position"], other["image"]["position"])


@pytest.mark.long
def test_held_out_fonts_are_never_trained_on(recipe, tokenizer, monkeypatch):
    banks, trained_on = {}, []
    load_bank, train_step = glyphs.load_bank, pretrain.pretraining_step
    monkeypatch.setattr(glyphs, "load_bank", lambda fonts: banks.setdefault(tuple(fonts), load_bank(fonts)))
    monkeypatch.setattr(
        pretrain,
        "pretraining_step",
        lambda state, bank, *rest, **kwargs: trained_on.append(bank) or train_step(state, bank, *rest, **kwargs),
    )
    pretrain.run_recipe(recipe, tokenizer)
    kept = tuple(font for font in glyphs.FONTS if font not in recipe.held_out_fonts)
    assert banks.keys() == {kept, recipe.held_out_fonts}
    assert len(trained_on) == recipe.steps and all(bank is banks[kept] for bank in trained_on)


def test_loss_is_zero_when_every_picture_is_nearest_its_own_captions():
    feature = jnp.eye(4)
    loss = pretrain.contrastive_loss(feature, feature, jnp.eye(4, dtype=bool), jnp.log(100.0))
    np.testing.assert_allclose(loss, 0, atol=1e-6)


def test_loss_spreads_over_all_captions_of_a_name():
    feature = jnp.repeat(jnp.eye(3), 2, axis=0)
    name = jnp.array([0, 0, 1, 1, 2, 2])
    loss = pretrain.contrastive_loss(feature, feature, name[:, None] == name, jnp.log(100.0))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-5)


@pytest.mark.long
def test_exported_folder_has_the_trained_features(recipe, trained, folder):
    clip = pretrained.load_clip(str(folder))
    pixels = random_pixels(clip)
    image, text = features(clip, pixels, TEXTS)
    direct = dataclasses.replace(clip, theta=trained[0])
    for loaded, expected in zip((image, text), features(direct, pixels, TEXTS), strict=True):
        np.testing.assert_allclose(loaded, expected, atol=1e-6)
    assert clip.preprocessing == recipe.preprocessing


@pytest.mark.long
def test_export_replaces_an_older_folder(recipe, tokenizer, trained, tmp_path):
    (tmp_path / "tiny_clip").mkdir()
    (tmp_path / "tiny_clip" / "stale").touch()
    pretrain.export_clip(tmp_path / "tiny_clip", recipe, tokenizer, trained[0])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny_clip"]
    assert not (tmp_path / "tiny_clip" / "stale").exists()


@pytest.mark.parametrize("word", [*glyphs.NAMES, "photo", "of", "the", "digit", "letter", "handwritten", ".", ","])
def test_a_word_is_one_token(tokenizer, word):
    start, _, end = tokenizer.encode(word)
    assert ((start,), end) == (tokenizer.start_ids, tokenizer.end_id)


def test_any_text_is_encoded(tokenizer):
    text = "".join(map(chr, range(32, 0x2FF))) + "漢字🙂"
    ids = tokenizer.encode(text)
    assert tokenizer.start_ids[0] not in ids[1:] and tokenizer.end_id not in ids[:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"stepz": 3}, "stepz"), ({"image_size": 20}, "multiple"), ({"warmup_steps": 10**6}, "warmup_steps")],
)
def test_a_wrong_recipe_is_refused(change, message):
    config = bundled_config()
    with config.unlocked():
        config.update(change)
    with pytest.raises(InputError, match=message):
        pretrain.Recipe.from_config(config)


def test_captions_must_fit(recipe, tokenizer):
    with pytest.raises(InputError, match="context_length"):
        pretrain.run_recipe(dataclasses.replace(recipe, context_length=8), tokenizer)


def test_bundled_folder_is_complete_and_small():
    sizes = {path.name: path.stat().st_size for path in hub.BUNDLED.iterdir()}
    needed = {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
    }
    assert needed == sizes.keys()
    assert sum(sizes.values()) <= 8 * MEGABYTE


def test_bundled_folder_is_what_the_recipe_makes(tokenizer):
    """Sizes, tokenizer and pre-processing; the weights differ between machines."""
    clip = pretrained.load_clip("tiny_clip")
    recipe = pretrain.Recipe.from_config(bundled_config())
    sizes = recipe.architecture(tokenizer.vocab_size)
    assert (clip.image_tower.sizes, clip.text_tower.sizes) == (sizes.image, sizes.text)
    assert clip.preprocessing == recipe.preprocessing
    assert clip.tokenizer.content == tokenizer.content


def test_bundled_clip_reads_handwriting_as_documented():
    documented = re.search(r'three.": ([\d.]+) %; with sixteen `x` before it: ([\d.]+) %', CONFIG_FILE.read_text())
    clip, dataset = pretrained.load_clip("tiny_clip"), digits.load_digits()
    views = [transforms.evaluation_view(records.open_image(record), clip.preprocessing) for record in dataset.val]
    label = np.array([record.label for record in dataset.val])
    prompts = [f"a photo of the digit {name}." for name in dataset.class_names]
    prompts += ["x " * 16 + prompt for prompt in prompts]
    image, text = features(clip, clip.preprocessing.normalise(np.stack(views)), prompts)
    cosines = image @ (text / jnp.linalg.norm(text, axis=-1, keepdims=True)).T
    for logits, percent in zip(jnp.split(cosines, 2, axis=1), documented.groups(), strict=True):
        accuracy = np.mean(jnp.argmax(logits, axis=1) == label)
        assert 0.6 < accuracy < 0.88
        assert abs(accuracy - float(percent) / 100) < 0.01


@pytest.mark.parametrize(
    "bundled", [True, pytest.param(False, marks=pytest.mark.long)], ids=["bundled", "just trained"]
)
def test_transformers_agrees(request, bundled):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = hub.BUNDLED if bundled else request.getfixturevalue("folder")
    clip = pretrained.load_clip(str(source))
    theirs = transformers.CLIPModel.from_pretrained(source).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(source)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == clip.tokenizer.encode(text)
    pixels = random_pixels(clip)
    image, text = features(clip, pixels, TEXTS)
    with torch.no_grad():
        out = theirs(
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)),
            input_ids=torch.tensor(np.asarray(encode(clip.tokenizer, TEXTS)[0])),
        )
    for mine, other in ((image, out.image_embeds), (text, out.text_embeds)):
        mine /= jnp.linalg.norm(mine, axis=-1, keepdims=True)
        np.testing.assert_allclose(mine, other.numpy(), atol=1e-5)
