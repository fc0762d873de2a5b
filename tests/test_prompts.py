"""Prompts: split where the classes part, and whole again."""

import numpy as np
import pytest
import tiny_clips

from pini_jax.clip import tokenizer
from pini_jax.data import prompts
from pini_jax.errors import InputError

NAMES = ("cat", "tabby_cat", "Queen_Anne's_lace", "737-800", "naïve 猫")
TEMPLATES = {
    "name at the end": "x x x a photo of a {}.",
    "name in the middle": "a photo of a {}, a type of pet.",
    "name first": "{} photo",
    "name alone": "{}",
    "name glued to a word": "a photo of anti{}ism",
    "name glued to a hyphen": "a non-{}",
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_clips.tokenizer().save(str(folder / "tokenizer.json"))
    return tokenizer.load(folder)


@pytest.mark.parametrize("template", TEMPLATES)
def test_prefix_and_suffix_are_the_tokenised_prompt(clip, template):
    built = prompts.build(clip, TEMPLATES[template], NAMES, 77)
    for name, suffix, end in zip(NAMES, built.suffix, built.end, strict=True):
        whole = clip.encode(TEMPLATES[template].replace("{}", name.replace("_", " ")))
        assert [*built.prefix, *suffix[: end + 1]] == whole
        assert suffix[end] == clip.end_id and (suffix[end:] == clip.end_id).all()
    # no longer than the longest name needs
    assert built.end.max() == built.suffix.shape[1] - 1


def test_the_prefix_is_everything_before_the_name(clip):
    """Not the token that two names happen to share, nor less: these are the tokens that get the noise."""
    template = "x x x a photo of a {}."
    built = prompts.build(clip, template, ("cat", "cat food"), 77)
    np.testing.assert_array_equal(built.prefix, clip.encode(template.split("{}")[0])[:-1])
    one = prompts.build(clip, template, ("cat",), 77)
    np.testing.assert_array_equal(built.prefix, one.prefix)


def test_a_glued_name_shares_only_what_does_not_merge(clip):
    """`c` + `at` is one token and `c` + `ow` two: what the name merges with is no prefix."""
    built = prompts.build(clip, "of c{}", ("at", "ow"), 77)
    assert list(built.prefix) == clip.encode("of")[:-1]
    assert [clip.backend.id_to_token(i) for i in built.suffix[0][:1]] == ["cat</w>"]


def test_underscores_are_spaces(clip):
    for a, b in zip(
        prompts.build(clip, "the {}", ("tabby_cat",), 77),
        prompts.build(clip, "the {}", ("tabby cat",), 77),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_arrays_are_what_the_towers_read(clip):
    built = prompts.build(clip, "the {}", NAMES, 77)
    assert {x.dtype for x in built} == {np.dtype(np.int32)}
    assert built.suffix.shape[0] == built.end.shape[0] == len(NAMES)


def test_the_context_may_be_filled_to_the_last_token(clip):
    length = max(len(clip.encode(f"the {name.replace('_', ' ')}")) for name in NAMES)
    prompts.build(clip, "the {}", NAMES, length)
    with pytest.raises(InputError, match=f"Queen_Anne's_lace.*{length} tokens.*{length - 1}"):
        prompts.build(clip, "the {}", NAMES, length - 1)


@pytest.mark.parametrize("template", ["a photo", "a {} of a {}", ""])
def test_a_template_without_one_place_for_the_name_is_refused(clip, template):
    with pytest.raises(InputError, match="exactly once"):
        prompts.build(clip, template, NAMES, 77)


@pytest.mark.parametrize("template", ["a {} {0}", "a {} {name}", "a } {} {"])
def test_other_braces_are_text(clip, template):
    """They are what the user wrote, no place for anything."""
    built = prompts.build(clip, template, ("cat",), 77)
    assert [*built.prefix, *built.suffix[0]] == clip.encode(template.replace("{}", "cat"))
