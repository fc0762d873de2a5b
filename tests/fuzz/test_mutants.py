"""Damaged and hostile files: one line that says so, or what the original holds, in bounded memory and time."""

import io
import json
import shutil
import warnings

import archives
import bounds
import jax
import numpy as np
import pytest
import tiny_clips
from fuzzing import edits, given, mutants
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from pini_jax.clip import pretrained, tokenizer
from pini_jax.clip.checkpoints import tensors
from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.core.errors import InputError
from pini_jax.data import views
from pini_jax.data.datasets.records import Record
from pini_jax.data.transforms import Augment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def read(path):
    """The tensors of a file, or None where it is refused: in one line of what prints, within bounds."""
    with bounds.bounded(memory=1 << 29):
        try:
            found = tensors.index([path])
            return {key: np.array(tensor.read()) for key, tensor in found.items() if 0 not in tensor.shape}
        except InputError as error:
            line = str(error)
    assert line.isprintable() and len(line) < 2500
    return None


def assert_same(found, expected):
    """What names or shapes differ in, the tables of names say: here they are compared with the CLIP's."""
    shapes = {key: value.shape for key, value in found.items()}
    if shapes == {key: value.shape for key, value in expected.items()}:
        for key, value in found.items():
            np.testing.assert_array_equal(value, expected[key])


# ------------------------------------------------------------------------------------------------ bytes

RANDOM = np.random.default_rng(0)
TENSORS = {key: RANDOM.standard_normal((4, 4), np.float32) for key in ("a.weight", "b.weight")}
TENSORS |= {"scale": np.full((), RANDOM.standard_normal(), np.float32)}


def archive():
    buffer = io.BytesIO()
    archives.write_tensors(buffer, TENSORS)
    return buffer.getvalue()


WEIGHTS = {"safetensors": save(TENSORS), "archive": archive()}


def payload(content):
    """Which bytes are those of tensors; nothing says what these should be."""
    inside = np.zeros(len(content), bool)
    for value in TENSORS.values():
        start = content.index(value.tobytes())
        inside[start : start + value.nbytes] = True
    return inside


STRUCTURE = {kind: np.flatnonzero(~payload(content)).tolist() for kind, content in WEIGHTS.items()}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_one_edit_of_the_structure_is_refused_or_changes_nothing(folder, kind):
    @given(edits(WEIGHTS[kind], STRUCTURE[kind]))
    def check(content):
        (folder / kind).write_bytes(content)
        found = read(folder / kind)
        # An edit may reach into the bytes of the next tensor.
        if found is not None and all(value.tobytes() in content for value in TENSORS.values()):
            assert_same(found, TENSORS)

    check()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_edits_are_refused_or_read(folder, kind):
    @given(mutants(WEIGHTS[kind]))
    def check(content):
        (folder / kind).write_bytes(content)
        read(folder / kind)

    check()


# ------------------------------------------------------------------------------------------------ pickles

NUMBERS = st.sampled_from([0, 1, 2, 7, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1])
NAMES = st.sampled_from(
    ["torch FloatStorage", "torch LongStorage", "collections OrderedDict", "torch._utils _rebuild_tensor_v2"]
    + ["torch._utils _rebuild_parameter", "torch.jit._pickle build_intlist", "torch.jit._pickle restore_type_tag"]
    + ["__torch__.M M", "functools partial", "os system", "builtins eval"]
)
OPCODES = st.one_of(
    st.sampled_from([bytes([x]) for x in b")]}(tN\x88\x89\x85\x86\x87saueRbQ\x81\x93\x940\x8f2."]),
    NUMBERS.map(lambda x: b"J" + (x % 2**32).to_bytes(4, "little")),
    NUMBERS.map(lambda x: b"r" + x.to_bytes(4, "little")),
    NUMBERS.map(lambda x: b"j" + x.to_bytes(4, "little")),
    st.binary(max_size=9).map(lambda x: b"\x8a" + bytes([len(x)]) + x),
    st.text(max_size=3).map(lambda x: b"X" + len(x.encode()).to_bytes(4, "little") + x.encode()),
    NAMES.map(lambda x: b"c" + x.replace(" ", "\n").encode() + b"\n"),
    st.tuples(*[st.integers(-1, 2**31 - 1)] * 3).map(lambda x: archives.item(x[0], (x[1],), (x[2],))),
    st.binary(min_size=1, max_size=4),
)


@given(st.lists(st.tuples(OPCODES, st.sampled_from([1, 1, 1, 2, 50, 3000])), max_size=30))
def test_no_pickle_does_harm(folder, parts):
    """Programs of opcodes, some of them many times over."""
    pickled = b"\x80\x02" + b"".join(part * times for part, times in parts) + b"."
    read(archives.write(folder / "a.pt", pickled, s=bytes(24)))


# ------------------------------------------------------------------------------------------------ headers

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.sampled_from([2**31, 2**32, 2**53, 2**63, 2**64, 10**40, -(2**63)]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["a" * 5000, "\x1b[2J", "F32", "F64", "BF16", "I8", "gelu", "clip"]),
    st.lists(st.integers(-1, 2**40), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    st.integers(1, 200).map(lambda depth: json.loads("[" * depth + "]" * depth)),
)


def places(content, path=()):
    """All paths into a JSON value."""
    yield path
    keys = content if isinstance(content, dict) else range(len(content) if isinstance(content, list) else 0)
    for key in keys:
        yield from places(content[key], (*path, key))


@st.composite
def odd(draw, content):
    """A JSON value, some parts of which are something else, or gone."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in places(content) if path] or [()]))
        if not path:
            return draw(ODD)
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.integers(0, 4)):
            parent[path[-1]] = draw(ODD)
        else:
            del parent[path[-1]]
    return content


LENGTH = int.from_bytes(WEIGHTS["safetensors"][:8], "little")
HEADER, DATA = json.loads(WEIGHTS["safetensors"][8 : 8 + LENGTH]), WEIGHTS["safetensors"][8 + LENGTH :]


@given(odd(HEADER), NUMBERS | st.just(None))
def test_headers_that_lie(folder, header, length):
    content = json.dumps(header).encode()
    length = len(content) if length is None else length
    (folder / "a.safetensors").write_bytes(length.to_bytes(8, "little") + content + DATA)
    read(folder / "a.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with all kinds of settings."""
    folder = tiny_clips.hugging_face_folder(tmp_path_factory.mktemp("clip"), layers=1)
    said = {"tokenizer_class": "CLIPTokenizer", "pad_token": {"content": tokenizer.END}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"added_tokens_decoder": {}}))
    return folder


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_settings_that_lie(folder, clip, name):
    """What is loaded has the original's parameters, and what differs has another fingerprint."""
    original = pretrained.load_clip(str(clip))
    shutil.copytree(clip, folder / name)

    @given(odd(json.loads((clip / name).read_text())), share=10)
    def check(content):
        (folder / name / name).write_text(json.dumps(content))
        with bounds.bounded(memory=1 << 29):
            try:
                found = pretrained.load_clip(str(folder / name))
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 2500
                return
        jax.tree.map(np.testing.assert_array_equal, found.theta, original.theta)
        if found.fingerprint == original.fingerprint:
            assert found.image_tower == original.image_tower and found.text_tower == original.text_tower
            assert found.preprocessing == original.preprocessing
            assert found.tokenizer.content == original.tokenizer.content

    check()


@pytest.mark.filterwarnings("ignore")
def test_tokenizers_that_lie(folder, clip):
    content = json.loads((clip / "tokenizer.json").read_text())
    (folder / "words").mkdir()

    @given(odd(content) | mutants(json.dumps(content).encode()), share=2)
    def check(content):
        (folder / "words" / "tokenizer.json").write_bytes(
            content if isinstance(content, bytes) else json.dumps(content).encode()
        )
        with bounds.bounded(memory=1 << 29):
            try:
                tokenizer.load_tokenizer(folder / "words").encode("a photo of the cat.")
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000

    check()


# ------------------------------------------------------------------------------------------------ images

KINDS = {"PNG": {}, "JPEG": {}, "progressive": {"progressive": True}, "GIF": {}, "TIFF": {}, "WEBP": {}, "BMP": {}}
KINDS |= {"JPEG2000": {}, "AVIF": {}, "PPM": {}, "TGA": {}, "ICO": {}}


def picture(kind):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(buffer, "JPEG" if kind == "progressive" else kind, exif=exif, **KINDS[kind])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_lie(kind):
    @given(mutants(picture(kind)), share=4)
    def check(content):
        for augment in (None, Augment()):
            with bounds.bounded(), warnings.catch_warnings(action="ignore"):
                try:
                    view = views.view_pixels(Record("a", content, 0), Preprocessing(), augment, 0, 0, 0)
                    assert view.shape == (224, 224, 3)
                except InputError as error:
                    assert str(error).isprintable() and len(str(error)) < 300

    check()
