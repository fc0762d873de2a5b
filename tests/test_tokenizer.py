"""CLIP's tokenizer from its files, token for token."""

import os
import shutil
from pathlib import Path

import pytest
import tiny_clips
import tokenizers
from tokenizers import models

from pini_jax.clip import tokenizer
from pini_jax.errors import InputError

DATA = os.environ.get("PINI_DATA_DIR")
needs_data = pytest.mark.skipif(not DATA, reason="PINI_DATA_DIR (with the tokenizer) is not set")
TEXTS = [
    "a photo of a cat.",
    "a photo of  a   American Pit Bull Terrier.",
    "crème brûlée",
    "cre\u0300me bru\u0302le\u0301e",  # the same letters, decomposed
    "St. Bernard's 'dog'",
    "it's they're I'd we'll",
    "forget-me-not",
    "macaroni & cheese",
    "colt's foot (yellow), 2012 BMW M3 coupé",
    "Boeing 737-800",
    "熊猫 大熊貓",
    "ヨークシャー・テリア",
    "🐶 dog 👩‍🚀",
    "\t tabs\nand\r\nlines \u00a0",
    "İstanbul ẞ ﬁ Ω",
    "x x x x",
    "<|endoftext|> in the middle",
    "supercalifragilisticexpialidocious" * 5,
    "",
]


@needs_data
def test_known_ids():
    """As OpenAI's own tokenizer makes them."""
    clip = tokenizer.load(Path(DATA, "tokenizer"))
    assert (clip.start_id, clip.end_id) == (49406, 49407)
    assert clip.encode("a photo of a cat.") == [49406, 320, 1125, 539, 320, 2368, 269, 49407]


@pytest.fixture(scope="module")
def theirs():
    transformers = pytest.importorskip("transformers")
    return transformers.CLIPTokenizer.from_pretrained(Path(DATA, "tokenizer"))


@pytest.fixture(scope="module", params=[("tokenizer.json",), ("vocab.json", "merges.txt")], ids=" and ".join)
def ours(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in request.param:
        shutil.copy(Path(DATA, "tokenizer", name), folder)
    return tokenizer.load(folder)


@needs_data
@pytest.mark.parametrize("text", TEXTS)
def test_same_ids_as_transformers(ours, theirs, text):
    assert ours.encode(text) == theirs(text)["input_ids"]


@pytest.fixture
def folder(tmp_path):
    tiny_clips.tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_ids_stand_between_start_and_end(folder):
    clip = tokenizer.load(folder)
    vocabulary = clip.backend.get_vocab()
    tokens = ("<|startoftext|>", "the</w>", "cat</w>", "<|endoftext|>")
    assert clip.encode("the CAT") == [vocabulary[token] for token in tokens]
    assert clip.encode("") == [clip.start_id, clip.end_id]


def test_no_text_is_cut_or_padded(folder):
    """Whatever the file says: prompts are checked against the context, and padded, elsewhere."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(5)
    backend.enable_padding(length=77)
    backend.save(str(folder / "tokenizer.json"))
    assert len(tokenizer.load(folder).encode("x " * 30)) == 32
    assert len(tokenizer.load(folder).encode("x")) == 3


def foreign(folder):
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.save(str(folder / "tokenizer.json"))


def only_one_of_the_pair(folder):
    (folder / "tokenizer.json").rename(folder / "vocab.json")


def damaged_pair(folder):
    only_one_of_the_pair(folder)
    (folder / "vocab.json").write_text('{"a": 0')
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")


DAMAGE = {
    "missing": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
    "one of the pair": (only_one_of_the_pair, "has no tokenizer"),
    "damaged": (lambda folder: (folder / "tokenizer.json").write_text('{"version": '), "cannot be read"),
    "damaged pair": (damaged_pair, "vocab.json"),
    "foreign": (foreign, "is not CLIP's"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_clip_tokenizer_is_one_clear_error(folder, damage):
    do, words = DAMAGE[damage]
    do(folder)
    with pytest.raises(InputError, match=words) as error:
        tokenizer.load(folder)
    assert str(folder) in str(error.value)
