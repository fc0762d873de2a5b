"""PyTorch's archives give up their tensors, and nothing in them runs."""

import os
import pickle
import shutil
import zipfile

import archives
import bounds
import numpy as np
import pytest

from pini_jax.clip import pretrained
from pini_jax.clip.checkpoints import hub, pickles, tensors
from pini_jax.core.errors import InputError


def read(path, key="a"):
    return np.array(tensors.index([path])[key].read())


STORED = np.arange(6, dtype=np.float32)


def one_tensor(folder, *place, compress=(), **options):
    """An archive with the tensor `a` over the six elements of STORED."""
    pickled = archives.pickled(archives.item(*place, **options))
    return archives.write(folder / "a.bin", pickled, compress, s=STORED.tobytes())


@pytest.mark.parametrize(
    ("offset", "size", "stride", "expected"),
    [
        (0, (2, 3), (3, 1), [[0, 1, 2], [3, 4, 5]]),
        (0, (3, 2), (1, 3), [[0, 3], [1, 4], [2, 5]]),
        (4, (2,), (1,), [4, 5]),
        (5, (), (), 5),
        (0, (0, 3), (3, 1), np.zeros((0, 3))),
    ],
)
def test_shape_strides_and_offset(tmp_path, offset, size, stride, expected):
    path = one_tensor(tmp_path, offset, size, stride)
    assert tensors.index([path])["a"].shape == size
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize(("size", "stride"), [((3, 2), (2, 1)), ((3, 2), (1, 3)), ((2, 2), (1, 2))])
def test_rows_are_those_of_the_whole(tmp_path, size, stride):
    path = one_tensor(tmp_path, 1 if size == (2, 2) else 0, size, stride)
    whole, rows = read(path), tensors.index([path])["a"].read(1, 2)
    np.testing.assert_array_equal(rows, whole[1:2])


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),
        (4, (3,), (1,)),
        (0, (2,), (99,)),
        (0, (2,), (-1,)),
        (-1, (1,), (1,)),
        (0, (2**30, 2**30), (0, 0)),  # few bytes, and an array of any size
        (0, (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)),
    ],
)
def test_no_memory_beside_the_storage_is_read(tmp_path, offset, size, stride):
    path = one_tensor(tmp_path, offset, size, stride)
    with pytest.raises(InputError, match="tensor a lies outside its storage"):
        tensors.index([path])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(compress=("s",)), "data/s is compressed"),
        (dict(compress=("data.pkl",)), "data.pkl is compressed"),
        (dict(entry="other"), "it has no archive/data/other"),
        (dict(storage=b"X\x01\x00\x00\x00O"), "its storage is no known one"),  # NumPy's name for any object
        (dict(storage=b"ccollections\nOrderedDict\n"), "its storage is no known one"),
    ],
)
def test_what_pytorch_does_not_write_is_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=f"refused .*{words}"):
        tensors.index([one_tensor(tmp_path, 0, (2,), (1,), **options)])


@pytest.mark.parametrize("claim", [2**20, 2**32 - 2])
def test_an_entry_that_claims_more_than_the_file_has_is_refused(tmp_path, claim):
    """The same false size in the directory and before the data, and a tensor to match."""
    path = one_tensor(tmp_path, 0, (2**18 - 1,), (1,))
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 18), (b"PK\x01\x02", 20)):
        start = content.rindex(signature) + place
        content[start : start + 8] = 2 * claim.to_bytes(4, "little")
    path.write_bytes(content)
    assert zipfile.ZipFile(path).getinfo("archive/data/s").file_size == claim
    with pytest.raises(InputError, match="refused .*data/s is not where the archive says"):
        tensors.index([path])


def test_parts_that_hold_each_other_or_themselves_come_to_an_end(tmp_path):
    """Forty parts that are each there twice would be 2**40 paths."""
    circle = {}
    circle["a"] = circle
    tower = {}
    for _ in range(40):
        tower = {"left": tower, "right": tower}
    path = archives.write(tmp_path / "a.pt", pickle.dumps({"c": circle, "t": tower}, 2))
    assert tensors.index([path]) == {}


def test_a_pickle_leaves_nothing_behind(tmp_path):
    """BUILD sets the state of what the pickle names."""
    build = b"\x80\x02c__torch__.M\nModule\n}X\x08\x00\x00\x00pollutedK\x01sb."
    with pytest.raises(InputError, match="gives a state to what has none"):
        tensors.index([archives.write(tmp_path / "a.pt", build)])
    assert pickles.Object.state is None


def test_scripted_modules_are_read(tmp_path):
    """Their convolutions hold lists of numbers, which PyTorch's own functions would build."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2, bias=False), torch.nn.LayerNorm(4))
    torch.jit.script(module).save(str(tmp_path / "a.pt"))
    found = tensors.index([tmp_path / "a.pt"])
    np.testing.assert_array_equal(found["0.weight"].read(), module[0].weight.detach().numpy())
    assert {"0.weight", "1.weight", "1.bias"} <= found.keys()


def test_a_file_that_shrinks_is_named(tmp_path):
    path = one_tensor(tmp_path, 0, (6,), (1,))
    found = tensors.index([path])["a"]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match="a.bin has become shorter"):
        found.read()


class Hostile:
    """Unpickled in earnest, it runs `function(argument)`."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, exec], ids=lambda f: f.__name__)
def test_a_hostile_archive_runs_nothing(tmp_path, function, protocol):
    mark = tmp_path / "ran"
    argument = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    bomb = pickle.dumps({"visual.conv1.weight": Hostile(function, argument)}, protocol)
    path = archives.write(tmp_path / "hostile.pt", bomb)
    with pytest.raises(InputError, match=r"refused .* which no weights need"):
        pretrained.load_clip(str(path))
    assert not mark.exists()
    pickle.loads(bomb)  # the bomb is a real one
    assert mark.exists()


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut off", b"PK\x05\x06" + bytes(9)], ids=["cut", "only an end"])
def test_what_is_no_whole_archive_is_refused(tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"pytorch_model.bin is no whole archive of PyTorch .* model.safetensors"):
        read(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "0 entries data.pkl"),
        (("a/model.safetensors", "b"), "is a zip file of a/model.safetensors, b: unpack it"),
        (("a/data.pkl", "b/data.pkl"), "2 entries data.pkl"),
        (("a.npy", "b/c.npy"), r"archive of NumPy \(.npz\), as big_vision writes them"),
    ],
    ids=["nothing", "another zip file", "two checkpoints", "NumPy"],
)
def test_other_zip_files_are_named(tmp_path, names, words):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        for name in names:
            file.writestr(name, b"")
    with pytest.raises(InputError, match=words):
        tensors.index([tmp_path / "a.pt"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_a_folder_with_pytorch_model_bin(tmp_path, dtype):
    """What torch.save writes is read as torch.load reads it, and loads as a CLIP."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    shutil.copytree(hub.BUNDLED, tmp_path / "clip")
    weights = load_file(tmp_path / "clip" / "model.safetensors")
    cast = {key: torch.nn.Parameter(x.to(getattr(torch, dtype))) for key, x in weights.items()}
    torch.save(cast, tmp_path / "clip" / "pytorch_model.bin")
    (tmp_path / "clip" / "model.safetensors").unlink()
    found = tensors.index([tmp_path / "clip" / "pytorch_model.bin"])
    assert found.keys() == cast.keys()
    for key, value in cast.items():
        np.testing.assert_array_equal(
            found[key].read().astype(np.float32), value.detach().to(torch.float32).numpy()
        )
    assert pretrained.load_clip(str(tmp_path / "clip")).theta["logit_scale"].shape == ()


def test_an_archive_without_checksums(tmp_path):
    """PyTorch can leave them out: what is then in their place is no reason to refuse the file."""
    torch = pytest.importorskip("torch")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(6.0)}, tmp_path / "a.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(read(tmp_path / "a.bin"), STORED)


# ------------------------------------------------------------------------------------------------ what lies


def refused(path, words):
    with bounds.bounded(memory=1 << 28, seconds=5), pytest.raises(InputError, match=words) as error:
        tensors.index([path])
    assert "\n" not in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 1000


def edited(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def test_the_directory_and_the_entries_must_agree(tmp_path):
    """Two tensors whose places in the directory are exchanged would be each other."""
    items = [archives.item(0, (6,), (1,), key=key, entry=key) for key in "ab"]
    path = archives.write(tmp_path / "a.bin", archives.pickled(*items), a=STORED.tobytes(), b=bytes(24))

    def exchange(content):
        places = [content.rindex(f"archive/data/{key}".encode()) - 4 for key in "ab"]
        one, other = (bytes(content[place : place + 4]) for place in places)
        for place, new in zip(places, (other, one), strict=True):
            content[place : place + 4] = new

    refused(edited(path, exchange), "data/a is not where the archive says")


def test_a_flipped_bit_of_the_pickle_is_noticed(tmp_path):
    path = one_tensor(tmp_path, 0, (2, 2), (2, 1))

    def flip(content):
        content[content.index(b"J\x02\0\0\0J\x01\0\0\0") + 1] ^= 3  # strides 1 and 1

    refused(edited(path, flip), "data.pkl is damaged: it does not match its checksum")


def test_entries_are_named_once(tmp_path):
    path = one_tensor(tmp_path, 0, (6,), (1,))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data/s", bytes(24))
    refused(path, "two entries of one name")


def test_tensors_are_named_once(tmp_path):
    """A key with a dot, and a part of a part."""
    item = archives.item(0, (2,), (1,), key="b")
    nested = b"X\x01\0\0\0a}" + item + b"s"
    pickled = archives.pickled(nested, archives.item(0, (2,), (1,), key="a.b"))
    refused(archives.write(tmp_path / "a.bin", pickled, s=STORED.tobytes()), "two tensors of the name 'a.b'")


def test_few_bytes_are_not_many_tensors(tmp_path):
    """A thousand names of one storage would be a model of any size."""
    items = [archives.item(0, (6,), (1,), key=str(i)) for i in range(1000)]
    path = archives.write(tmp_path / "a.bin", archives.pickled(*items), s=STORED.tobytes())
    assert len(tensors.index([path])) == 1000  # 24 bytes each, in a file of more
    large = [archives.item(0, (2**18,), (1,), key=str(i)) for i in range(1000)]
    path = archives.write(tmp_path / "b.bin", archives.pickled(*large), s=bytes(2**20))
    refused(path, "many times the bytes of the file")


def test_numbers_of_another_byte_order_are_refused(tmp_path):
    path = one_tensor(tmp_path, 0, (6,), (1,))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/byteorder", b"big")
    refused(path, "big-endian")


def test_a_huge_directory_is_not_read(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(60_000):
            file.writestr(f"archive/data/{i:060}", b"")
    refused(path, "its list of entries has .* bytes")


def test_overlapping_entries_are_refused(tmp_path):
    """The pickle in the storage of a tensor."""
    path = one_tensor(tmp_path, 0, (2,), (1,))

    def grow(content):
        """data/s, which comes last, starts where it does and is as long as the rest; data.pkl reaches into it."""
        for signature, place in ((b"PK\x03\x04", 18), (b"PK\x01\x02", 20)):
            start = content.index(signature) + place
            length = int.from_bytes(content[start : start + 4], "little") + 100
            content[start : start + 8] = 2 * length.to_bytes(4, "little")
            content[start - 4 : start] = bytes(4)  # no checksum

    refused(edited(path, grow), "two of its entries are the same bytes")


@pytest.mark.parametrize(
    ("key", "words"),
    [("a" * 2000, "names of more than 64 parts or 1000"), ("a\x1b[31m", r"name is no name: 'a\\x1b\[31m'")],
    ids=["long", "control characters"],
)
def test_names_are_names(tmp_path, key, words):
    pickled = archives.pickled(archives.item(0, (2,), (1,), key=key))
    refused(archives.write(tmp_path / "a.bin", pickled, s=STORED.tobytes()), words)


@pytest.mark.parametrize("module", ["posix\x1b[2J", "a" * 10**6], ids=["control characters", "long"])
def test_what_a_pickle_says_is_cut_in_messages(tmp_path, module):
    pickled = b"\x80\x02c" + module.encode() + b"\nsystem\n."
    refused(archives.write(tmp_path / "a.bin", pickled), "which no weights need|refused")


@pytest.mark.parametrize(("size", "stride"), [((1, 6), (2**62, 1)), ((6, 1), (1, 2**62))])
def test_the_step_of_an_axis_of_one_element_is_any(tmp_path, size, stride):
    """Numbers of 64 bits, which archives.item does not write."""
    numbers = [b"(" + b"".join(b"\x8a\x08" + x.to_bytes(8, "little") for x in xs) + b"t" for xs in (size, stride)]
    item = archives.item(0, (), ()).replace(b"(t(t", b"".join(numbers))
    path = archives.write(tmp_path / "a.bin", archives.pickled(item), s=STORED.tobytes())
    np.testing.assert_array_equal(read(path), STORED.reshape(size))
