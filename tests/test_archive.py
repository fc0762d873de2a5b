"""PyTorch's archives give up their tensors, and nothing in them runs."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from pini_jax.clip import pretrained, tensors
from pini_jax.errors import InputError


def write_archive(path, pickled, **entries):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in entries.items():
            file.writestr(f"archive/data/{name}", content)
    return path


def number(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def pickled_tensor(offset, size, stride, storage=b"FloatStorage"):
    """The pickle of {"a": tensor over the entry data/s}, opcode by opcode, as PyTorch writes it."""
    place = b"(" + text("storage") + b"ctorch\n" + storage + b"\n" + text("s") + text("cpu") + number(4) + b"tQ"
    shape = b"".join(b"(" + b"".join(map(number, x)) + b"t" for x in (size, stride))
    rest = b"\x88" + b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + place + number(offset) + shape + rest + b"t"
    return b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def read(path, key="a"):
    with tensors.open_tensors([path]) as found:
        return np.array(found[key].read())


STORED = np.arange(6, dtype=np.float32)


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
    path = write_archive(tmp_path / "a.bin", pickled_tensor(offset, size, stride), s=STORED.tobytes())
    with tensors.open_tensors([path]) as found:
        assert found["a"].shape == size
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (7,), (1,)), (4, (3,), (1,)), (0, (2,), (99,)), (0, (2,), (-1,)), (-1, (1,), (1,))],
)
def test_no_memory_beside_the_storage_is_read(tmp_path, offset, size, stride):
    path = write_archive(tmp_path / "a.bin", pickled_tensor(offset, size, stride), s=STORED.tobytes())
    with pytest.raises(InputError, match="outside its storage"):
        read(path)


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
    path = write_archive(tmp_path / "hostile.pt", bomb)
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
    import shutil

    from safetensors.torch import load_file

    shutil.copytree(pretrained.BUNDLED, tmp_path / "clip")
    weights = load_file(tmp_path / "clip" / "model.safetensors")
    cast = {key: torch.nn.Parameter(x.to(getattr(torch, dtype))) for key, x in weights.items()}
    torch.save(cast, tmp_path / "clip" / "pytorch_model.bin")
    (tmp_path / "clip" / "model.safetensors").unlink()
    with tensors.open_tensors([tmp_path / "clip" / "pytorch_model.bin"]) as found:
        assert found.keys() == cast.keys()
        for key, value in cast.items():
            np.testing.assert_array_equal(
                found[key].read().astype(np.float32), value.detach().to(torch.float32).numpy()
            )
    assert pretrained.load(str(tmp_path / "clip")).theta["logit_scale"].shape == ()
