"""Prompts: split where the classes part, and whole again."""

import logging

import numpy as np
import pytest
import tiny_clips
from tokenizers import models, normalizers, pre_tokenizers, processors

from pini_jax.clip import architecture, prompts, tokenizer
from pini_jax.core.errors import InputError

NAMES = ("cat", "tabby_cat", "Queen_Anne's_lace", "737-800", "naïve 猫")
TEMPLATES = {
    "name at the end": "x x x a photo of a {}.",
    "name in the middle": "a photo of a {}, a type of pet.",
    "name first": "{} photo",
    "name alone": "{}",
    "name glued to a word": "a photo of anti{}ism",
    "name glued to a hyphen": "a non-{}",
}


def text(causal=True, pool="end", context_length=77) -> architecture.TextSizes:
    return architecture.TextSizes(600, context_length, architecture.Transformer(8, 1, 1, 8, causal=causal), pool)


CAUSAL = text()
WHOLE = {
    "bidirectional, read at the end": text(causal=False),
    "bidirectional, read at the last": text(causal=False, pool="last"),
    "causal, read at the last": text(pool="last"),
}


@pytest.fixture(scope="module")
def clip():
    return tokenizer.from_backend(tiny_clips.tokenizer())


@pytest.fixture(scope="module")
def siglip():
    """Letters and spaces, with an end token and nothing before; what fills up is another token."""
    letters = sorted(set("".join(NAMES + tuple(TEMPLATES.values())).replace("_", "▁") + "▁"))
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *letters, "▁a", "▁c"])}
    backend = tiny_clips.tokenizers.Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("▁", "c")], unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer.from_backend(backend, start=(), end="<eos>", pad="<pad>")


def tokens_of(tokenizer, template, name):
    return tokenizer.encode(template.replace("{}", name.replace("_", " ")))


def ends(built):
    """Places of the end tokens in their rows, of prompts with a class in every row."""
    return built.end % built.suffix.shape[1]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_parts_are_the_tokenised_prompt(clip, template):
    built = prompts.build(clip, TEMPLATES[template], NAMES, CAUSAL)
    assert tuple(built.start) == clip.start_ids
    for name, suffix, end in zip(NAMES, built.suffix, ends(built), strict=True):
        whole = tokens_of(clip, TEMPLATES[template], name)
        assert [*built.start, *built.prefix, *suffix[: end + 1]] == whole
        assert suffix[end] == clip.end_id and (suffix[end:] == clip.end_id).all()
    # no longer than the longest name needs
    assert ends(built).max() == built.suffix.shape[1] - 1


@pytest.mark.parametrize("sizes", WHOLE)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_tower_that_sees_what_fills_up_gets_whole_sequences(siglip, template, sizes):
    built = prompts.build(siglip, TEMPLATES[template], NAMES, WHOLE[sizes])
    assert built.start.shape == (0,)
    assert len(built.prefix) + built.suffix.shape[1] == WHOLE[sizes].context_length
    for name, suffix, end in zip(NAMES, built.suffix, ends(built), strict=True):
        whole = tokens_of(siglip, TEMPLATES[template], name)
        row = [*built.prefix, *suffix]
        assert row == whole + [siglip.pad_id] * (77 - len(whole))
        assert len(built.prefix) + end == (len(whole) - 1 if WHOLE[sizes].pool == "end" else 76)


def test_a_start_token_counts_in_whole_sequences(clip):
    built = prompts.build(clip._replace(pad_id=0), "a photo of a {}.", NAMES, text(causal=False))
    assert len(built.start) + len(built.prefix) + built.suffix.shape[1] == 77
    for suffix, end in zip(built.suffix, ends(built), strict=True):
        assert suffix[end] == clip.end_id and (suffix[end + 1 :] == 0).all()


@pytest.mark.parametrize("sizes", WHOLE)
def test_whole_sequences_are_logged_in_one_line(siglip, caplog, sizes):
    caplog.set_level(logging.INFO)
    prompts.build(siglip, "a {}", NAMES, CAUSAL)
    assert not caplog.records
    prompts.build(siglip, "a {}", NAMES, WHOLE[sizes])
    (record,) = caplog.records
    assert "all 77 positions" in record.getMessage()
    assert ("bidirectional" in record.getMessage()) != WHOLE[sizes].transformer.causal


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_prefix_is_everything_before_the_name(request, kind):
    """Not the token that two names happen to share, nor less: these are the tokens that get the noise."""
    words, template = request.getfixturevalue(kind), "x x x a photo of a {}."
    before = words.encode("x x x a photo of a")[len(words.start_ids) : -1]
    for names in (("cat", "cat food"), ("cat",), ("猫",), NAMES):
        np.testing.assert_array_equal(prompts.build(words, template, names, CAUSAL).prefix, before)


def test_a_glued_name_shares_only_what_does_not_merge(clip):
    """`c` + `at` is one token and `c` + `ow` two: what the name merges with is no prefix."""
    built = prompts.build(clip, "of c{}", ("at", "ow"), CAUSAL)
    assert [*built.start, *built.prefix] == clip.encode("of")[:-1]
    assert [built.suffix[0][0]] == clip.encode("cat")[1:-1]


def test_underscores_are_spaces(clip):
    for a, b in zip(
        prompts.build(clip, "the {}", ("tabby_cat",), CAUSAL),
        prompts.build(clip, "the {}", ("tabby cat",), CAUSAL),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sizes", [CAUSAL, *WHOLE.values()])
def test_arrays_are_what_the_towers_read(siglip, sizes):
    built = prompts.build(siglip, "{}", NAMES, sizes)
    assert {x.dtype for x in built} == {np.dtype(np.int32)}
    assert [x.ndim for x in built] == [1, 1, 2, 2, 2, 1]
    assert built.suffix.shape[0] == built.end.shape[0] == len(NAMES)


@pytest.mark.parametrize("sizes", [CAUSAL, *WHOLE.values()])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_context_may_be_filled_to_the_last_token(request, kind, sizes):
    words = request.getfixturevalue(kind)
    length = max(len(tokens_of(words, "the {}", name)) for name in NAMES)

    def build(context_length):
        changed = text(sizes.transformer.causal, sizes.pool, context_length)
        return prompts.build(words, "the {}", NAMES, changed)

    assert ends(build(length)).max() == build(length).suffix.shape[1] - 1
    with pytest.raises(InputError, match=f"Queen_Anne's_lace.*{length} tokens.*{length - 1}"):
        build(length - 1)


@pytest.mark.parametrize("template", ["a photo", "a {} of a {}", ""])
def test_a_template_without_one_place_for_the_name_is_refused(clip, template):
    with pytest.raises(InputError, match="exactly once"):
        prompts.build(clip, template, NAMES, CAUSAL)


@pytest.mark.parametrize("template", ["a {} {0}", "a {} {name}", "a } {} {"])
def test_other_braces_are_text(clip, template):
    """They are what the user wrote, no place for anything."""
    built = prompts.build(clip, template, ("cat",), CAUSAL)
    assert [*built.start, *built.prefix, *built.suffix[0]] == clip.encode(template.replace("{}", "cat"))


@pytest.mark.parametrize(("names", "words"), [((), "no classes"), (("cat", "\ud83d"), "no valid text: '.ud83d'")])
def test_what_is_no_list_of_names_is_refused(clip, names, words):
    with pytest.raises(InputError, match=words):
        prompts.build(clip, "a {}", names, CAUSAL)


@pytest.fixture(scope="module")
def deaf():
    """Lower case, without punctuation, and one token for every word that it does not know."""
    words = ["<pad>", "<eos>", "<unk>", "a", "photo", "of", "c", "cat", "dog"]
    backend = tiny_clips.tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    dropped = [normalizers.Replace(sign, "") for sign in "+#"]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *dropped])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer.from_backend(backend, start=(), end="<eos>", pad="<pad>")


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (("C", "C++", "dog", "C#"), "'C' = 'C++' = 'C#'; rename"),
        (("cat", "Cat", "dog"), "'cat' = 'Cat'; rename"),
        (("lion", "cat", "tiger"), "'lion' = 'tiger'; rename"),
        (("", "+", "cat"), "'' = '+'; rename"),
        (("C", "cat", "C#", "CAT"), "'C' = 'C#', 'cat' = 'CAT'; rename"),
        (("lion", "cat", "\x1b"), r"'lion' = '\x1b'; rename"),
    ],
)
@pytest.mark.parametrize("template", ["a photo of a {}", "{} photo"])
@pytest.mark.parametrize("sizes", [CAUSAL, *WHOLE.values()])
def test_names_that_are_the_same_to_a_tokenizer_are_named(deaf, sizes, template, names, same):
    with pytest.raises(InputError) as caught:
        prompts.build(deaf, template, names, sizes)
    assert same in str(caught.value)


def test_one_name_of_two_classes_is_the_datasets_own(clip, deaf):
    """As of ImageNet's two cranes, whose loader knows of it."""
    for words in (clip, deaf):
        assert len(prompts.build(words, "a {}", ("cat", "dog", "cat"), CAUSAL).end) == 3


def test_names_that_a_tokenizer_tells_apart_are_no_error(clip):
    assert len(prompts.build(clip, "a {}", ("C", "C++", "C#", "+", "-", "="), CAUSAL).end) == 6


def test_many_names_in_a_message_are_cut(deaf):
    with pytest.raises(InputError) as caught:
        prompts.build(deaf, "a {}", [f"word{i}" * 50 for i in range(300)], CAUSAL)
    assert len(str(caught.value)) < 3000
    with pytest.raises(InputError, match="makes a prompt of .* tokens") as caught:
        prompts.build(deaf, "a {}", ["cat " * 100_000], CAUSAL)
    assert len(str(caught.value)) < 500


LENGTHS = {
    "few": [3, 5, 4],
    "one": [7],
    "equal": [4] * 40,
    "long": [2, 70, 3],
    "many": [3, 4, 5, 13, 3, 6] * 60,
}


def made_of(lengths):
    """Prompts of one class per row, with tokens that occur once."""
    c, s = len(lengths), max(lengths)
    ids = np.arange(c * s).reshape(c, s)
    return prompts.Prompts(
        np.zeros(1), np.zeros(2), ids, ids % s, ids // s, ids[np.arange(c), np.array(lengths) - 1]
    )


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("kind", LENGTHS)
def test_packed_rows_hold_every_suffix_whole_and_once(kind, shards):
    lengths = LENGTHS[kind]
    single, packed = made_of(lengths), prompts.pack(made_of(lengths), shards)
    assert len(packed.suffix) % shards == 0
    np.testing.assert_array_equal(packed.suffix.ravel()[packed.end], single.end)
    for i, length in enumerate(lengths):
        (row,) = {int(r) for r, _ in np.argwhere(packed.owner == i)}
        where = np.flatnonzero(packed.owner[row] == i)
        assert list(np.diff(where)) == [1] * (length - 1) and len(where) == length
        np.testing.assert_array_equal(packed.suffix[row][where], single.suffix[i, :length])
        np.testing.assert_array_equal(packed.place[row][where], np.arange(length))
    assert (packed.owner >= 0).sum() == sum(lengths)


def test_packed_rows_are_almost_full():
    """ImageNet's suffixes: 4.2 tokens in the mean, 13 the longest."""
    lengths = np.clip(3 + np.random.default_rng(0).poisson(1.2, 1000), 3, 13)
    lengths[0] = 13
    assert prompts.pack(made_of(lengths.tolist())).suffix.size <= 1.03 * lengths.sum()
    assert prompts.pack(made_of([4] * 36)).suffix.size == 4 * 36
