"""PyTorch's pickles are data: no opcode takes more than its own bytes are worth."""

import pickle

import archives
import bounds
import pytest

from pini_jax.clip.checkpoints import archive, pickles

START = b"\x80\x02"


def load(pickled):
    return pickles.read_pickle(pickled, archive._find, archive._locate)


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def put(number):
    return b"r" + number.to_bytes(4, "little")


def get(number):
    return b"j" + number.to_bytes(4, "little")


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


ORDERED = name("collections", "OrderedDict") + b")R"
OBJECT = name("__torch__.M", "M") + b")\x81"
DOUBLED = b")" + 60 * (put(1) + get(1) + b"\x86")  # a tuple of twice a tuple of twice ...
MANY = b"(" + 100_000 * b"N"  # items for a list or a tuple


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, False], "b": (), "c": (1,), "d": (1, "ü", 300), "e": (1, 2, 3, 4), "f": -7},
        {"a": {"b": {"c": [[], {}]}}, "big": 2**40, "small": -(2**40), 7: "number"},
        {"shared": (shared := [1]), "again": shared},
    ],
    ids=["values", "nested", "shared"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_data_are_read_as_python_reads_them(value, protocol):
    assert load(pickle.dumps(value, protocol)) == value


def test_attributes_of_a_dictionary_hold_no_weights():
    """A state_dict has the versions of its modules as an attribute."""
    assert load(START + ORDERED + text("a") + b"K\x01s" + b"}" + text("_metadata") + b"}sb.") == {"a": 1}


def test_an_object_has_its_state():
    assert load(START + OBJECT + b"}" + text("a") + b"K\x01sb.").state == {"a": 1}


REFUSED = {
    "a call of what is no function": (b"})R.", "calls what is no function"),
    "a call of a class": (name("__torch__", "M") + b")R.", "calls what is no function"),
    "a call of a dtype": (name("torch", "FloatStorage") + b")R.", "calls what is no function"),
    "a function that is not called": (b"}" + name("functools", "partial") + b".", "functools.partial"),
    "an attribute of a known module": (name("collections", "abc.os.system") + b".", "which no weights need"),
    "an object of a function": (name("collections", "OrderedDict") + b")\x81.", "no known class"),
    "an object with arguments": (name("__torch__", "M") + b"N\x85\x81.", "no known class"),
    "a state of a number": (b"K\x01}b.", "what has none"),
    "a second state": (OBJECT + b"}b}b.", "what has none"),
    "items of a list": (b"]K\x01K\x02s.", "no dictionary"),
    "an item for a dictionary": (b"}K\x01a.", "no list"),
    "a key that is a tuple": (b"}" + DOUBLED + b"Ns.", "neither a text nor a small number"),
    "a key that is a function": (b"}" + name("collections", "OrderedDict") + b"Ns.", "neither a text nor"),
    "a key that is a float": (b"}G" + bytes(8) + b"Ns.", "neither a text nor"),
    "a key that is a long number": (b"}\x8a\x08" + b"\xff" * 7 + b"\x01Ns.", "neither a text nor"),
    "a key twice": (b"}" + 2 * (text("a") + b"Ns") + b".", "the key 'a' twice"),
    "a name that is a tuple": (text("torch") + DOUBLED + b"\x93.", "no name"),
    "a number of more than 64 bits": (b"\x8a\xff" + b"\x7f" * 255 + b".", "more than 64 bits"),
    "a long number": (b"\x8b\x08\0\0\0" + b"\x7f" * 8 + b".", "opcode LONG4"),
    "an extension": (b"\x82\x01.", "opcode EXT1"),
    "an instance": (b"(ios\nsystem\n.", "opcode INST"),
    "text": (b"I12345\n.", "opcode INT"),
    "a set": (b"\x8f.", "opcode EMPTY_SET"),
    "a reference to doubled tuples": (DOUBLED + b"Q.", "no storage"),
    "a storage of four parts": (b"(NNNNtQ.", "no storage"),
    "a storage of an unknown dtype": (b"(NNNNNtQ.", "no known one"),
    "a storage with a number for a name": (b"(N" + name("torch", "FloatStorage") + b"K\x01NNtQ.", "no known one"),
    "a stack that is empty": (b"0.", "opcode POP"),
    "nothing": (b".", "empty"),
    "nothing marked": (b"t.", "empty"),
    "a value that was never put": (get(7) + b".", "7"),
    "an odd number of items": (b"}(K\x01u.", "shorter"),
    "no end": (b"}", "exhausted|end"),
    "no pickle": (b"\xff\xff", "unknown"),
    "a text of more bytes than there are": (b"X" + b"\xff" * 4 + b"abc.", "expected 4294967295 bytes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_weights_do_not_need_is_refused(kind):
    pickled, words = REFUSED[kind]
    with bounds.bounded(memory=1 << 26, seconds=5), pytest.raises(Exception, match=words) as error:
        load(START + pickled)
    assert not isinstance(error.value, MemoryError | RecursionError)


# Each would take far more than its bytes: as many copies of something large as it has opcodes, or one huge thing.
BOMBS = {
    "a far place in the memo": b"}" + put(2**32 - 1) + b".",
    "tuples of tuples": DOUBLED + b".",
    "dictionaries in each other": 100_000 * (b"}" + text("a")) + b"}" + 100_000 * b"s" + b".",
    "lists in each other": 200_000 * b"]" + 199_999 * b"a" + b".",
    "objects in each other": OBJECT + put(1) + 50_000 * (b"}" + text("a") + OBJECT) + 50_000 * b"sb" + b".",
    "marks": 400_000 * b"(" + b"].",
    "tuples of one large tuple": MANY + b"t" + put(1) + 30_000 * (get(1) + b"\x85") + b".",
    "a list that is built again": (
        b"]" + MANY + b"e" + put(1) + 9_000 * (name("torch.jit._pickle", "build_intlist") + get(1) + b"\x85R")
        + b"."
    ),
    "arguments": MANY + b"t" + put(1) + name("torch._utils", "_rebuild_parameter") + put(2) + get(1) + b"R.",
    "one state of many objects": (
        b"}(" + b"".join(b"M" + i.to_bytes(2, "little") + b"N" for i in range(60_000)) + b"u" + put(1)
        + 30_000 * (OBJECT + get(1) + b"b") + b"."
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_no_opcode_takes_more_than_its_bytes(kind):
    with bounds.bounded(memory=1 << 28):
        try:
            load(START + BOMBS[kind])
        except Exception as error:
            assert not isinstance(error, MemoryError | RecursionError)


def test_the_opcodes_are_counted():
    with bounds.bounded(memory=1 << 27), pytest.raises(ValueError, match="more than 524,288 opcodes"):
        load(START + (pickles.OPCODES + 1) * b"N" + b".")


def test_what_a_state_dict_holds_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save({"state_dict": model.state_dict(), "epoch": 3, "history": [0.5]}, tmp_path / "a.ckpt")
    found = archive.index_archive(tmp_path / "a.ckpt")
    assert {f"state_dict.{key}" for key in model.state_dict()} == found.keys()


def test_a_tensor_lies_where_the_pickle_says():
    found = load(archives.pickled(archives.item(5, (2, 3), (3, 1), entry="7")))["a"]
    assert (found.storage.key, found.offset, found.size, found.stride) == ("7", 5, (2, 3), (3, 1))
