"""The tokenizers of CLIP, SigLIP and SigLIP 2, read from a checkpoint's own files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import string
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors

from pini_jax.core import extras, files
from pini_jax.core.errors import InputError
from pini_jax.core.wording import plain, quoted

# The largest files of tokenizers that are read, in bytes; those of SigLIP 2, the largest, take half of it.
SIZES = {
    "tokenizer.json": 1 << 26,
    "vocab.json": 1 << 24,
    "merges.txt": 1 << 24,
    "spiece.model": 1 << 24,
    # What transformers looks for beside them.
    **dict.fromkeys(("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"), files.JSON),
    **dict.fromkeys(("config.json", "chat_template.jinja", "chat_template.json"), files.JSON),
}
TEXTS = 1 << 21  # in such a file; the library takes 300 bytes for each
STEPS = 1 << 20  # bytes of what comes before or after the vocabulary: most of them a table of letters
GROWTH = 1000  # times as long as a text may become before it is cut into tokens
START, END = "<|startoftext|>", "<|endoftext|>"
# What CLIP's byte-pair encoding gets to see of a text.
NORMALIZER = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
)
_WORD = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
PRE_TOKENIZER = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(_WORD, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)


class Tokenizer(NamedTuple):
    """Text -> token ids.

    Attributes:
        encode: ids of a text of any length, with what stands around every text; nothing is cut or padded.
        start_ids: what every encoding starts with.
        end_id: what every encoding ends with.
        pad_id: what fills an encoding up to the context length.
        vocab_size: the greatest id, plus one.
        content: a text that names all that the encodings depend on.
    """

    encode: Callable[[str], list[int]]
    start_ids: tuple[int, ...]
    end_id: int
    pad_id: int
    vocab_size: int
    content: str


def from_backend(
    backend: tokenizers.Tokenizer,
    start: tuple[str, ...] = (START,),
    end: str = END,
    pad: str = END,
    clean: Callable[[str], str] = str,
) -> Tokenizer:
    """A tokenizer of the library's, by default with CLIP's tokens; what the file lacks around a text is added.

    Raises:
        InputError: it does not know these tokens, or puts others around a text.
    """
    backend.no_padding()
    backend.no_truncation()
    _check_steps(backend)
    vocabulary, around = backend.get_vocab(), (*start, end)
    if missing := [token for token in dict.fromkeys((*around, pad)) if token not in vocabulary]:
        raise InputError(f"it has no {' and '.join(missing)}")
    if backend.post_processor is None:
        backend.post_processor = processors.TemplateProcessing(
            single=[*start, "$A", end], special_tokens=[(token, vocabulary[token]) for token in around]
        )
    if _encode(backend, "") != [vocabulary[token] for token in around]:
        raise InputError(f"it does not put {' and '.join(around)} around a text, and nothing else")
    return Tokenizer(
        encode=lambda text: _encode(backend, clean(text)),
        start_ids=tuple(vocabulary[token] for token in start),
        end_id=vocabulary[end],
        pad_id=vocabulary[pad],
        vocab_size=max(vocabulary.values()) + 1,
        # The first form names CLIPs in the fingerprints of older runs.
        content=backend.to_str() if clean is str else f"{clean.__name__} {backend.to_str()}",
    )


def _encode(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    with _library(f"{quoted(text)} cannot be encoded: the tokenizer"):
        return backend.encode(text).ids


def _check_steps(backend: tokenizers.Tokenizer) -> None:
    """What a file asks for around its vocabulary must not make a short text a long one."""
    for step in (backend.normalizer, backend.pre_tokenizer, backend.post_processor):
        if step is not None and len(step.__getstate__()) > STEPS:
            raise InputError(f"its {type(step).__name__} has more than {STEPS:,} bytes")
    if backend.normalizer and _growth(json.loads(backend.normalizer.__getstate__())) > GROWTH:
        raise InputError(f"its normaliser may make a text {GROWTH} times as long")


def _growth(step: Mapping[str, Any]) -> int:
    """How many times as long a normaliser can make a text; those that Unicode defines count as one."""
    match step["type"]:
        case "Sequence":
            return math.prod(map(_growth, step["normalizers"]))
        case "Replace":
            return 1 + len(step["content"])
        case "Prepend":
            return 1 + len(step["prepend"])
        case "ByteLevel":
            return 4
    return 1


# ---------------------------------------------------------------------------------------- text before the tokens


def _whitespace(text: str) -> str:
    return " ".join(text.split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    """As in SigLIP's training: no ASCII punctuation, lower case, single spaces."""
    return _lower(text.translate(str.maketrans("", "", string.punctuation)))


def _canonicalize_names(text: str) -> str:
    """As above, and `_` is a space."""
    return _canonicalize(text.replace("_", " "))


# By open_clip's names; its own versions also mend HTML and broken encodings, before all else.
_OPEN_CLIP = {"whitespace": _whitespace, "lower": _lower, "canonicalize": _canonicalize_names}


# ------------------------------------------------------------------------------------------- files -> tokenizer


class Family(NamedTuple):
    """What the tokenizers of one kind of model have in common.

    Attributes:
        name: of the models.
        start: tokens before every text.
        end: the token after every text.
        pad: the token that fills up, where the folder names none.
        clean: what a text goes through first, where the folder does not say.
        sources: files that are looked for in this order, with what reads them.
    """

    name: str
    start: tuple[str, ...]
    end: str
    pad: str
    clean: Callable[[str], str]
    sources: tuple[tuple[tuple[str, ...], Callable[[Path, Family], Tokenizer]], ...]


def load_tokenizer(folder: Path) -> Tokenizer:
    """Reads a folder's tokenizer: `tokenizer.json`, `vocab.json` with `merges.txt`, or `spiece.model`.

    Ids are those of transformers' CLIPTokenizer, SiglipTokenizer or Siglip2Tokenizer. Where the folder has an
    `open_clip_config.json`, texts for SigLIP are cleaned as that says instead.

    Raises:
        InputError: the folder has no tokenizer, or one of another kind, or it cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"tokenizer {folder} is no folder: name the one that holds the tokenizer's files")
    for name, most in SIZES.items():
        if (folder / name).exists():
            _check_file(folder / name, most)
    family = _family(folder)
    for names, read in family.sources:
        if all((folder / name).exists() for name in names):
            return read(folder, family)
    wanted = ", or ".join(" and ".join(names) for names, _ in family.sources)
    raise InputError(f"{folder} has no tokenizer: for {family.name} that is {wanted}")


def _family(folder: Path) -> Family:
    name = str(_settings(folder).get("tokenizer_class") or "").removesuffix("Fast")
    if name in FAMILIES:
        return FAMILIES[name]
    if name not in _ANY_CLASS:
        raise InputError(f"{folder} has a {plain(name)}; tokenizers that can be read are {', '.join(FAMILIES)}")
    if not (folder / "tokenizer.json").exists():
        return SIGLIP if (folder / "spiece.model").exists() else CLIP
    vocabulary = _open(folder / "tokenizer.json").get_vocab()
    guesses = (CLIP, SIGLIP_2, SIGLIP)  # in this order: Gemma's vocabulary has SigLIP's end token
    for family in guesses:
        if {*family.start, family.end} <= vocabulary.keys():
            return family
    wanted = " or ".join(f"{family.name}'s ({' '.join((*family.start, family.end))})" for family in guesses)
    raise InputError(f"the tokenizer in {folder} is not {wanted}: it lacks their tokens")


def _read_clip(folder: Path, family: Family) -> Tokenizer:
    """The file as it is, unless transformers would read it otherwise."""
    backend = _open(folder / "tokenizer.json")
    tokenizer = _finish(folder, family, backend)
    usual = (str(backend.normalizer), str(backend.pre_tokenizer)) == (str(NORMALIZER), str(PRE_TOKENIZER))
    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    return tokenizer if usual and _special_tokens(folder) <= special else _rebuild_clip(folder, family)


def _rebuild_clip(folder: Path, family: Family) -> Tokenizer:
    """From the vocabulary and the merges alone, as transformers does."""
    transformers = extras.require("transformers", "tokenizers")
    with _library(f"the tokenizer of vocab.json and merges.txt in {folder}"):
        backend = transformers.CLIPTokenizer.from_pretrained(folder).backend_tokenizer
    return _finish(folder, family, backend)


def _read_json(folder: Path, family: Family) -> Tokenizer:
    return _finish(folder, family, _open(folder / "tokenizer.json"))


def _read_lowered(folder: Path, family: Family) -> Tokenizer:
    """SigLIP 2 learned from lower-cased text only, which older files leave to who uses them."""
    backend = _open(folder / "tokenizer.json")
    rest = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    return _finish(folder, family, backend)


def _read_sentencepiece(folder: Path, family: Family) -> Tokenizer:
    extras.require("sentencepiece", "tokenizers")  # which transformers would miss later, in many lines
    transformers = extras.require("transformers", "tokenizers")
    with _library(str(folder / "spiece.model")):
        theirs = transformers.SiglipTokenizer.from_pretrained(folder)
    digest = hashlib.sha256((folder / "spiece.model").read_bytes()).hexdigest()
    return Tokenizer(
        encode=lambda text: theirs(text, verbose=False)["input_ids"],
        start_ids=(),
        end_id=theirs.eos_token_id,
        pad_id=theirs.pad_token_id,
        vocab_size=max(theirs.get_vocab().values()) + 1,
        content=f"{family.name} {theirs.do_lower_case} {sorted(theirs.get_added_vocab().items())} {digest}",
    )


CLIP = Family(
    *("CLIP", (START,), END, END, str),
    sources=((("tokenizer.json",), _read_clip), (("vocab.json", "merges.txt"), _rebuild_clip)),
)
SIGLIP = Family(
    *("SigLIP", (), "</s>", "</s>", _canonicalize),
    sources=((("spiece.model",), _read_sentencepiece), (("tokenizer.json",), _read_json)),
)
SIGLIP_2 = Family(*("SigLIP 2", (), "<eos>", "<pad>", str), sources=((("tokenizer.json",), _read_lowered),))
# By the class that tokenizer_config.json names, less "Fast"; T5's is how open_clip keeps SigLIP's.
FAMILIES = {
    "CLIPTokenizer": CLIP,
    "SiglipTokenizer": SIGLIP,
    "T5Tokenizer": SIGLIP._replace(sources=SIGLIP.sources[1:]),
    "GemmaTokenizer": SIGLIP_2,
    "Siglip2Tokenizer": SIGLIP_2,
}
_ANY_CLASS = ("", "PreTrainedTokenizer", "TokenizersBackend")


def _finish(folder: Path, family: Family, backend: tokenizers.Tokenizer) -> Tokenizer:
    """With the cleaning and the padding that the folder asks for."""
    text = _within(_within(_object(folder / "open_clip_config.json"), "model_cfg"), "text_cfg")
    clean = family.clean
    if of_hugging_face := "hf_tokenizer_name" in text:
        name = _within(text, "tokenizer_kwargs").get("clean", "whitespace")
        if not isinstance(name, str) or name not in _OPEN_CLIP:
            known = ", ".join(_OPEN_CLIP)
            raise InputError(f"{folder}: cleaning {quoted(name)} of text is unknown; known are {known}")
        clean = _OPEN_CLIP[name]
    pad = _content(_settings(folder).get("pad_token")) or family.pad
    try:
        tokenizer = from_backend(backend, family.start, family.end, pad, clean)
    except InputError as error:
        raise InputError(f"the tokenizer in {folder} is not {family.name}'s: {error}") from None
    # open_clip's own tokenizer is CLIP's, and fills with zeros
    return tokenizer._replace(pad_id=0) if text and not of_hugging_face else tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    """What transformers reads beside the vocabulary; the second file counts in older folders only."""
    settings = _object(folder / "tokenizer_config.json")
    older = {} if "added_tokens_decoder" in settings else _object(folder / "special_tokens_map.json")
    return settings | older


def _special_tokens(folder: Path) -> set[str]:
    settings = _settings(folder)
    tokens = [value for key, value in settings.items() if key.endswith("_token")]
    tokens += _within(settings, "added_tokens_decoder").values()
    additional = settings.get("additional_special_tokens")
    tokens += additional if isinstance(additional, list) else []
    return {_content(token) for token in tokens} - {""}


def _within(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; {} where there is none."""
    value = settings.get(key)
    return value if isinstance(value, dict) else {}


def _content(token: object) -> str:
    """A token is written as its text or as an object that holds it; "" is none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _check_file(path: Path, most: int) -> None:
    files.check(path, most)
    if path.suffix == ".json" and path.read_bytes().count(b'"') > 2 * TEXTS:
        raise InputError(f"{path} has more than {TEXTS:,} texts, too many for a tokenizer")


def _open(path: Path) -> tokenizers.Tokenizer:
    with _library(str(path)):
        return tokenizers.Tokenizer.from_file(str(path))


def _object(path: Path) -> dict[str, Any]:
    """A file of settings; {} where there is none."""
    content = files.read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


@contextlib.contextmanager
def _library(what: str) -> Iterator[None]:
    """What a library of tokenizers raises, as one line that says what could not be read.

    It raises bare Exception, and where it panics a PanicException, which is none, and which it does not export.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what} cannot be read ({plain(error)})") from None
