"""The tokenizers of every kind of checkpoint from their files, token for token."""

import json
import os
import shutil
from pathlib import Path

import bounds
import pytest
import sentencepiece
import tiny_clips
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors

from pini_jax.clip import tokenizer
from pini_jax.core.errors import InputError

DATA = os.environ.get("PINI_DATA_DIR")
needs_data = pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR (with the tokenizer) is not set")
TEXTS = [
    "a photo of a cat.",
    "a photo of  a   American Pit Bull Terrier.",
    "crème brûlée",
    "cre\u0300me bru\u0302le\u0301e",  # the same letters, decomposed
    "St. Bernard's 'dog'",
    "Queen Anne’s lace, Queen Anne`s lace",
    "it's they're I'd we'll HE'LL",
    "forget-me-not",
    "forget–me—not",
    "macaroni & cheese, macaroni &amp; cheese",
    "colt's foot (yellow), 2012 BMW M3 coupé",
    "Boeing 737-800 ½ Ⅷ ٣",
    "熊猫 大熊貓",
    "ヨークシャー・テリア",
    "조선 불독",
    "🐶 dog 👩‍🚀 🏳️‍🌈 👍🏽",
    "כלב שָׁלוֹם",
    "قطة فارسية",
    "हिन्दी ไทย",
    "\t tabs\nand\r\nlines \u00a0 \u3000 \u200b \x85",
    "İstanbul ẞ ﬁ Ω ΟΔΟΣ Ａ ǅ",
    "x x x x",
    "wow! hm... [a] {b} _c_ #d @e",
    "<|endoftext|> in the middle, <|startoftext|>too",
    "supercalifragilisticexpialidocious" * 5,
    " ",
    "",
]
SPECIAL = ["<unk> and </s> within", "</s>", "cat </s>", "<eos> within", "▁cat", "<pad>"]


def class_names() -> list[str]:
    splits = Path(DATA or "", "splits").glob("*.json")
    items = [item for path in splits for part in json.loads(path.read_text()).values() for item in part]
    return sorted({name for _, _, name in items})


def assert_same_ids(ours, theirs, texts):
    for text in texts:
        assert ours.encode(text) == theirs(text, verbose=False)["input_ids"], text
    assert ours.pad_id == theirs.pad_token_id and ours.end_id == theirs.eos_token_id
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1


# ------------------------------------------------------------------------------------------------------ CLIP


@needs_data
def test_known_ids():
    """As OpenAI's own tokenizer makes them."""
    clip = tokenizer.load_tokenizer(Path(DATA, "tokenizer"))
    assert (clip.start_ids, clip.end_id, clip.pad_id, clip.vocab_size) == ((49406,), 49407, 49407, 49408)
    assert clip.encode("a photo of a cat.") == [49406, 320, 1125, 539, 320, 2368, 269, 49407]


SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
FILES = {
    "all": ("tokenizer.json", "vocab.json", "merges.txt", *SETTINGS),
    "tokenizer.json": ("tokenizer.json",),
    "vocab.json and merges.txt": ("vocab.json", "merges.txt"),
    "vocab.json and merges.txt with settings": ("vocab.json", "merges.txt", *SETTINGS),
}


def copy(folder, names):
    for name in names:
        shutil.copy(Path(DATA, "tokenizer", name), folder)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_post_processor(folder):
    edit(folder / "tokenizer.json", post_processor=None)


def with_another_pipeline(folder):
    """As an older converter could have written it: transformers reads no more than vocabulary and merges."""
    edit(folder / "tokenizer.json", normalizer=None, pre_tokenizer={"type": "Whitespace"})


def padded_with(token):
    def change(folder):
        edit(folder / "tokenizer_config.json", pad_token=token)

    return change


def padded_with_in_the_older_file(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["added_tokens_decoder"], settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    edit(folder / "special_tokens_map.json", pad_token="!")


CHANGES = {
    "no post-processor": without_post_processor,
    "another pipeline": with_another_pipeline,
    "padded with !": padded_with("!"),
    "padded with an object": padded_with({"__type": "AddedToken", "content": "!", "special": True}),
    "padded with ! in the older file": padded_with_in_the_older_file,
}


@needs_data
@pytest.mark.parametrize("files", FILES)
def test_same_ids_as_transformers(files, tmp_path):
    copy(tmp_path, FILES[files])
    names = class_names()
    texts = [*TEXTS, *names, *(f"x x a photo of a {name.replace('_', ' ')}." for name in names)]
    assert_same_ids(
        tokenizer.load_tokenizer(tmp_path), transformers.CLIPTokenizer.from_pretrained(tmp_path), texts
    )


@needs_data
@pytest.mark.parametrize("change", CHANGES)
def test_same_ids_as_transformers_from_unusual_folders(change, tmp_path):
    copy(tmp_path, ("tokenizer.json", *SETTINGS))
    CHANGES[change](tmp_path)
    assert_same_ids(
        tokenizer.load_tokenizer(tmp_path), transformers.CLIPTokenizer.from_pretrained(tmp_path), TEXTS
    )


@pytest.fixture
def folder(tmp_path):
    tiny_clips.tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_ids_stand_between_start_and_end(folder):
    clip, vocabulary = tokenizer.load_tokenizer(folder), tiny_clips.tokenizer().get_vocab()
    tokens = ("<|startoftext|>", "the</w>", "cat</w>", "<|endoftext|>")
    assert clip.encode("the CAT") == [vocabulary[token] for token in tokens]
    assert clip.encode("") == [*clip.start_ids, clip.end_id]


def test_no_text_is_cut_or_padded(folder):
    """Whatever the file says: prompts are checked against the context, and padded, elsewhere."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(5)
    backend.enable_padding(length=77)
    backend.save(str(folder / "tokenizer.json"))
    assert len(tokenizer.load_tokenizer(folder).encode("x " * 30)) == 32
    assert len(tokenizer.load_tokenizer(folder).encode("x")) == 3


def test_the_content_of_a_clip_tokenizer_is_its_file(folder):
    """It is part of fingerprints that older runs have recorded."""
    assert tokenizer.load_tokenizer(folder).content == tiny_clips.tokenizer().to_str()


def test_open_clips_own_tokenizer_fills_with_zeros(folder):
    """Text without causal attention sees what fills up."""
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"text_cfg": {"no_causal_mask": True}}})
    )
    assert tokenizer.load_tokenizer(folder).pad_id == 0


# ---------------------------------------------------------------------------------------------------- SigLIP


@pytest.fixture(scope="session")
def spiece(tmp_path_factory):
    """A folder with a SentencePiece model of SigLIP's make."""
    folder = tmp_path_factory.mktemp("siglip")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in TEXTS[:8] * 4 if text]),
        model_prefix=str(folder / "spiece"),
        **dict(vocab_size=90, pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
        **dict(hard_vocab_limit=False, minloglevel=2),
    )
    return folder


@pytest.fixture(scope="session")
def siglip(spiece):
    return transformers.SiglipTokenizer.from_pretrained(spiece)


def describe(folder, **settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.filterwarnings("ignore:This sequence already has </s>")
@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"pad_token": "<pad>"}], ids=str)
def test_siglip_from_its_sentencepiece_model(spiece, settings, tmp_path):
    shutil.copy(spiece / "spiece.model", tmp_path)
    describe(tmp_path, tokenizer_class="SiglipTokenizer", **settings)
    ours, theirs = tokenizer.load_tokenizer(tmp_path), transformers.SiglipTokenizer.from_pretrained(tmp_path)
    assert_same_ids(ours, theirs, TEXTS + SPECIAL)
    assert ours.start_ids == () and ours.encode("") == [ours.end_id]


def test_siglip_fills_with_its_end_token(spiece):
    """Also where nothing beside the model says what it is."""
    found = tokenizer.load_tokenizer(spiece)
    assert (found.pad_id, found.end_id) == (1, 1)


@pytest.fixture
def converted(spiece, tmp_path):
    """The same as tokenizer.json, as open_clip keeps it."""
    made = transformers.T5Tokenizer.from_pretrained(spiece, extra_ids=0, pad_token="</s>")
    made.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["SiglipTokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", None])
def test_siglip_from_tokenizer_json(converted, siglip, name):
    describe(converted, tokenizer_class=name)
    # Joined emoji are cleaned another way by the library; where a folder has spiece.model, that is what is read.
    texts = [text for text in TEXTS if "\u200d" not in text]
    assert_same_ids(tokenizer.load_tokenizer(converted), siglip, texts)


@pytest.mark.parametrize(
    ("clean", "expected"),
    [("canonicalize", "fine art oclock"), ("lower", "fine_art o'clock!"), ("whitespace", "Fine_Art O'Clock!")],
)
def test_siglip_of_open_clip_is_cleaned_as_its_config_says(converted, clean, expected):
    text = {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": clean}}
    (converted / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text}}))
    backend = tokenizers.Tokenizer.from_file(str(converted / "tokenizer.json"))
    ours = tokenizer.load_tokenizer(converted)
    assert ours.encode(" Fine_Art  O'Clock!\n") == backend.encode(expected).ids
    assert (ours.start_ids, ours.end_id, ours.pad_id) == ((), 1, 1)
    assert clean in ours.content


def test_an_unknown_cleaning_is_refused(converted):
    text = {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": "scrub"}}
    (converted / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text}}))
    with pytest.raises(InputError, match="'scrub'.*canonicalize"):
        tokenizer.load_tokenizer(converted)


def test_contents_tell_tokenizers_apart(spiece, converted):
    contents = [tokenizer.load_tokenizer(folder).content for folder in (spiece, converted, spiece)]
    assert contents[0] == contents[2] != contents[1]


# -------------------------------------------------------------------------------------------------- SigLIP 2


def gemma() -> tokenizers.Tokenizer:
    """Gemma's BPE: bytes for what it does not know, spaces as ▁, an end token and nothing before."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = sorted(set("▁C".join(TEXTS)) - set("熊🐶"))
    merges = [("▁", "a"), ("p", "h"), ("ph", "o"), ("c", "a"), ("ca", "t"), ("▁", "cat"), ("C", "a"), ("▁", "▁")]
    tokens = [*special, "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters, *map("".join, merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    backend.add_special_tokens(special)
    return backend


@pytest.fixture
def siglip_2(tmp_path):
    gemma().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("name", ["Siglip2Tokenizer", "GemmaTokenizerFast", "GemmaTokenizer", None])
def test_siglip_2_is_lower_cased_by_any_class(siglip_2, name):
    theirs = transformers.Siglip2Tokenizer.from_pretrained(siglip_2)
    if name:
        describe(siglip_2, tokenizer_class=name, pad_token="<pad>", add_bos_token=False, add_eos_token=True)
    ours = tokenizer.load_tokenizer(siglip_2)
    assert_same_ids(ours, theirs, TEXTS + SPECIAL)
    assert (ours.start_ids, ours.end_id, ours.pad_id) == ((), 1, 0)
    assert ours.encode("A CAT") == ours.encode("a cat")


def test_siglip_2_that_lower_cases_by_itself(siglip_2):
    expected = tokenizer.load_tokenizer(siglip_2)
    backend = gemma()
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), backend.normalizer])
    backend.save(str(siglip_2 / "tokenizer.json"))
    found = tokenizer.load_tokenizer(siglip_2)
    assert [found.encode(text) for text in TEXTS] == [expected.encode(text) for text in TEXTS]


# ------------------------------------------------------------------------------------------------- refusals


def foreign(folder):
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.save(str(folder / "tokenizer.json"))


def foreign_of_the_class(folder):
    foreign(folder)
    describe(folder, tokenizer_class="CLIPTokenizer")


def with_other_tokens_around(folder):
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = backend.token_to_id(tokenizer.END)
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {tokenizer.END}", special_tokens=[(tokenizer.END, end)]
    )
    backend.save(str(folder / "tokenizer.json"))


def roberta(folder):
    backend = tokenizers.Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "a": 2}, []))
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    backend.save(str(folder / "tokenizer.json"))


def only_one_of_the_pair(folder):
    (folder / "tokenizer.json").rename(folder / "vocab.json")


def damaged_pair(folder):
    only_one_of_the_pair(folder)
    (folder / "vocab.json").write_text('{"a": 0')
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")


def damaged_model(folder):
    (folder / "tokenizer.json").rename(folder / "spiece.model")


def gemma_without_its_file(folder):
    (folder / "tokenizer.json").unlink()
    describe(folder, tokenizer_class="GemmaTokenizer")


DAMAGE = {
    "missing": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
    "one of the pair": (only_one_of_the_pair, "has no tokenizer"),
    "no file of the class": (gemma_without_its_file, "has no tokenizer: for SigLIP 2 that is tokenizer.json"),
    "damaged": (lambda folder: (folder / "tokenizer.json").write_text('{"version": '), "cannot be read"),
    "damaged pair": (damaged_pair, "vocab.json"),
    "damaged model": (damaged_model, "spiece.model cannot be read"),
    "damaged settings": (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "is no valid JSON"),
    "settings of a list": (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "no JSON object"),
    "foreign": (foreign, "is not CLIP's"),
    "foreign of the class": (foreign_of_the_class, r"is not CLIP's: it has no <\|startoftext\|>"),
    "other tokens around": (with_other_tokens_around, "is not CLIP's: it does not put"),
    "RoBERTa": (roberta, "is not SigLIP's: it does not put </s>"),
    "BERT": (lambda folder: describe(folder, tokenizer_class="BertTokenizerFast"), "BertTokenizer.*CLIPTokenizer"),
    "XLM-R": (lambda folder: describe(folder, tokenizer_class="XLMRobertaTokenizer"), "XLMRobertaTokenizer"),
    "unknown padding": (lambda folder: describe(folder, pad_token="[PAD]"), r"it has no \[PAD\]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_known_tokenizer_is_one_clear_error(folder, damage):
    do, words = DAMAGE[damage]
    do(folder)
    with pytest.raises(InputError, match=words) as error:
        tokenizer.load_tokenizer(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------ hostile files


def steps(**changed):
    return lambda folder: edit(folder / "tokenizer.json", **changed)


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def sparse(name):
    def write(folder):
        with open(folder / name, "wb") as file:
            file.truncate(1 << 40)

    return write


def many_words(folder):
    words = b",".join(b'"%x":%d' % (i, i) for i in range(tokenizer.TEXTS + 1))
    (folder / "tokenizer.json").write_bytes(b'{"model":{"vocab":{' + words + b"}}}")


DOUBLED = {"type": "Sequence", "normalizers": 40 * [replace({"String": "a"}, "aa")]}
HOSTILE = {
    "a text that doubles and doubles": (steps(normalizer=DOUBLED), "its normaliser may make a text 1000 times"),
    "a long replacement": (steps(normalizer=replace({"String": "a"}, "a" * 10**5)), "1000 times as long"),
    "a long beginning": (steps(normalizer={"type": "Prepend", "prepend": "a" * 10**5}), "1000 times as long"),
    "a table of letters that is none": (
        steps(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "cannot be read",
    ),
    "a text many times": (
        steps(post_processor={"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
              | {"single": 40_000 * [{"Sequence": {"id": "A", "type_id": 0}}]}),
        "PostProcessor has more than 1,048,576 bytes|TemplateProcessing has more than",
    ),
    "brackets in brackets": (steps(model=json.loads("[" * 500 + "]" * 500)), "recursion limit exceeded"),
    "more words than any": (many_words, "more than 2,097,152 texts"),
    "a huge vocabulary": (sparse("tokenizer.json"), "at most 67,108,864 are read"),
    "a huge model": (sparse("spiece.model"), "at most 16,777,216 are read"),
    "huge merges": (sparse("merges.txt"), "at most 16,777,216 are read"),
    "huge settings": (sparse("special_tokens_map.json"), "at most 4,194,304 are read"),
    "a pipe": (lambda folder: os.mkfifo(folder / "added_tokens.json"), "added_tokens.json is no regular file"),
    "a device": (lambda folder: (folder / "chat_template.jinja").symlink_to("/dev/zero"), "is no regular file"),
    "settings in settings": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[" * 10**6),
        "objects and lists within each other",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_one_line(folder, kind):
    do, words = HOSTILE[kind]
    do(folder)
    with bounds.bounded(memory=1 << 28), pytest.raises(InputError, match=words) as error:
        tokenizer.load_tokenizer(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_an_expression_that_takes_for_ever_is_one_line(folder):
    """The library gives up by itself, and panics."""
    backend = tokenizers.Tokenizer(models.BPE({"<eos>": 0, "<pad>": 1, "a": 2, "b": 3}, []))
    backend.normalizer = normalizers.Replace(tokenizers.Regex("(a|a|aa)+$"), "x")
    backend.save(str(folder / "tokenizer.json"))
    found = tokenizer.load_tokenizer(folder)
    with bounds.bounded(memory=1 << 28), pytest.raises(InputError, match="'a+b' cannot be encoded.*retry-limit"):
        found.encode("a" * 40 + "b")
