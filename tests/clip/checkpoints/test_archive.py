"""PyTorch's archives give up their tensors, and nothing in them runs."""

import contextlib
import os
import pickle
import shutil
import zipfile

import archives
import numpy as np
import pytest

from pini_jax.clip import pretrained
from pini_jax.clip.checkpoints import archive, hub, tensors
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
        (dict(entry="other"), "no item named 'archive/data/other'"),
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
    """BUILD sets attributes of what the pickle names."""
    build = b"\x80\x02c__torch__.M\nModule\n}X\x08\x00\x00\x00pollutedK\x01sb."
    with contextlib.suppress(InputError):
        tensors.index([archives.write(tmp_path / "a.pt", build)])
    assert not hasattr(archive._Module, "polluted")


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
        pretrained.load(str(path))
    assert not mark.exists()
    pickle.loads(bomb)  # the bomb is a real one
    assert mark.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."],
    ids=["empty", "text", "cut", "pickle"],
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"neither a safetensors file nor a whole archive .* model.safetensors"):
        read(path)


def test_what_holds_no_pickle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("archive/other", b"")
    with pytest.raises(InputError, match="refused"):
        read(tmp_path / "a.pt")


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
    assert pretrained.load(str(tmp_path / "clip")).theta["logit_scale"].shape == ()


def test_an_archive_without_checksums(tmp_path):
    """PyTorch can leave them out: what is then in their place is no reason to refuse the file."""
    torch = pytest.importorskip("torch")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(6.0)}, tmp_path / "a.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(read(tmp_path / "a.bin"), STORED)
