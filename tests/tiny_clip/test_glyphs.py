"""Pictures and captions of the pre-training."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from pini_jax.core.errors import InputError
from pini_jax.tiny_clip import glyphs
from pini_jax.tiny_clip.pretrain import build_tokenizer

SIZE = 24


@pytest.fixture(scope="module")
def bank() -> glyphs.Bank:
    return glyphs.load_bank(["DejaVuSans", "cmti10"])


@pytest.fixture(scope="module")
def captions() -> glyphs.Captions:
    return glyphs.load_captions(build_tokenizer())


def pictures(seed: int, bank: glyphs.Bank, strength: float) -> jax.Array:
    """One picture of every glyph."""
    return glyphs.render_glyphs(jax.random.key(seed), bank, jnp.arange(len(bank.name)), SIZE, strength)


@pytest.mark.parametrize("font", glyphs.FONTS)
def test_fonts_have_every_character(font):
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    assert {ord(character) for character in glyphs.CHARACTERS} <= FT2Font(path).get_charmap().keys()


def test_no_font_of_symbols():
    symbols = ("cmmi", "cmsy", "cmex", "STIXSiz", "STIXNonUni", "LastResort", "Display")
    assert not [font for font in glyphs.FONTS if any(part in font for part in symbols)]


def test_unknown_font_is_refused():
    with pytest.raises(InputError, match="cmsy10"):
        glyphs.load_bank(["DejaVuSans", "cmsy10"])


def test_names():
    assert [glyphs.NAMES[glyphs.glyph_name(character)] for character in "09aAzZ"] == ["zero", "nine", *"aazz"]
    assert len(glyphs.NAMES) == 36


def test_digits_are_drawn_as_often_as_letters_and_names_of_a_kind_alike(bank):
    share = np.bincount(bank.name, bank.probability)
    np.testing.assert_allclose(share[:10], 0.5 / 10, rtol=1e-5)
    np.testing.assert_allclose(share[10:], 0.5 / 26, rtol=1e-5)


def test_every_glyph_has_ink_inside_its_box(bank):
    ink = pictures(0, bank, strength=0.0).mean((1, 2, 3))
    assert ink.min() > 0.04 and ink.max() < 0.9
    assert (bank.distance[:, [0, -1]] < 0).all() and (bank.distance[:, :, [0, -1]] < 0).all()


def test_plain_pictures_are_white_on_black_and_do_not_depend_on_the_key(bank):
    one, other = (pictures(seed, bank, strength=0.0) for seed in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, jnp.broadcast_to(one[..., :1], one.shape))
    assert one.min() == 0 and one.max() > 0.95


def test_a_picture_is_a_function_of_key_place_and_glyph(bank):
    whole = pictures(3, bank, strength=1.0)
    np.testing.assert_array_equal(whole, pictures(3, bank, strength=1.0))
    part = glyphs.render_glyphs(jax.random.key(3), bank, jnp.arange(5), SIZE, 1.0)
    np.testing.assert_allclose(whole[:5], part, atol=1e-5)
    assert (abs(whole - pictures(4, bank, strength=1.0)).mean((1, 2, 3)) > 0.01).all()
    assert whole.shape[1:] == (SIZE, SIZE, 3) and whole.min() >= 0 and whole.max() <= 1


def test_most_pictures_are_grey(bank):
    many = np.concatenate([pictures(seed, bank, strength=1.0) for seed in range(4)])
    coloured = (np.ptp(many, axis=-1) > 0.01).any((1, 2)).mean()
    assert abs(coloured - glyphs.LOOKS.coloured) < 0.06


def test_every_caption_holds_its_name_as_a_word():
    for template in glyphs.TEMPLATES:
        for name, word in enumerate(glyphs.NAMES):
            assert word in glyphs.caption(template, name).rstrip(".").split()


def test_composed_captions_are_what_the_tokenizer_makes(captions):
    tokenizer = build_tokenizer()
    template = glyphs.TEMPLATES.index("a photo of the {kind} {name}.")
    name, context = jnp.array([3, 12]), jnp.array([16, 0])
    ids, end = glyphs.compose(captions, template, name, context, max_context=16)
    for row, last, text in zip(
        ids.tolist(),
        end.tolist(),
        ["x " * 16 + "a photo of the digit three.", "a photo of the letter c."],
        strict=True,
    ):
        assert row[: last + 1] == tokenizer.encode(text)
        assert set(row[last:]) == {tokenizer.end_id}


def test_drawn_captions_hold_the_name_after_at_most_max_context_words(captions):
    tokenizer = build_tokenizer()
    name = jnp.arange(720) % len(glyphs.NAMES)
    ids, end = glyphs.draw_captions(jax.random.key(0), captions, name, max_context=5)
    word = jnp.array([tokenizer.encode(text)[1] for text in glyphs.NAMES])
    assert (ids == word[name][:, None]).any(axis=1).all()
    assert (ids[:, 0] == tokenizer.start_ids[0]).all()
    np.testing.assert_array_equal(jnp.argmax(ids, axis=1), end)
    full_stop = tokenizer.encode(".")[1]
    stopped = ids[jnp.arange(len(ids)), end - 1] == full_stop
    assert 0.4 < stopped.mean() < 0.6
    leading = jnp.cumprod(ids[:, 1:] == captions.context_id, axis=1).sum(axis=1)
    assert leading.max() in (5, 6) and 0.4 < (leading == 0).mean() < 0.7  # "x" alone is a caption as well
