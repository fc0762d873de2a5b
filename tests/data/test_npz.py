"""Arrays in .npz files: what is read, and what a file cannot talk its reader into."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from pini_jax.data import npz


def header(shape, dtype="<f4", by_columns=False):
    """The beginning of a .npy file."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {by_columns}, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def archive(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for key, content in members.items():
            file.writestr(f"{key}.npy", content)
    return path


ARRAYS = {
    "numbers": np.arange(6, dtype=np.float16).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "one": np.float32(3),
    "text": np.array(["a", "é", "猫"]),
    "bytes": np.array([b"a", b"bc"]),
    "none": np.zeros((0, 512), np.float32),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    found = npz.read_npz(tmp_path / "x.npz", [*ARRAYS, "other"])
    assert found.keys() == ARRAYS.keys()
    for key, array in found.items():
        assert array.dtype == ARRAYS[key].dtype
        np.testing.assert_array_equal(array, ARRAYS[key])


def test_other_arrays_are_not_touched(tmp_path):
    bomb = header((1 << 28,), "|u1") + bytes(1 << 28)
    good = io.BytesIO()
    np.save(good, np.ones(3))
    path = archive(tmp_path / "x.npz", bomb=bomb, damaged=b"no array", good=good.getvalue())
    tracemalloc.start()
    assert npz.read_npz(path, ["good"])["good"].tolist() == [1, 1, 1]
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


LIES = {
    "more than there is": header((1 << 20, 1 << 20)) + bytes(64),
    "less than there is": header((3,)) + bytes(64),
    "more than memory": header((1 << 62,)) + bytes(64),
    "nothing, many times": header((1 << 60, 0)),
    "no letters, many times": header((1 << 60,), "<U0"),
    "less than nothing": header((-4, -4)) + bytes(64),
    "objects": header((1,), "|O") + b"\x80\x04N.",
    "records of objects": header((1,), [("a", "|O")]) + bytes(8),
    "records": header((1,), [("a", "<f4")]) + bytes(4),
    "no characters": header((1,), "<U1") + b"\xff\xff\xff\x7f",
    "no characters, the other way round": header((1,), ">U1") + b"\x7f\xff\xff\xff",
    "nested": b"\x93NUMPY\x01\x00" + (900).to_bytes(2, "little") + b"(" * 899 + b"\n",
    "minus": b"\x93NUMPY\x01\x00" + (60000).to_bytes(2, "little") + b"-" * 59999 + b"\n",
    "another version": b"\x93NUMPY\x09\x00" + bytes(64),
    "no header": b"\x93NUMPY\x01\x00",
    "nothing": b"",
    "a name": header("np.zeros(9)") + bytes(64),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_lie_cost_nothing(tmp_path, lie, compression):
    path = archive(tmp_path / "x.npz", compression, x=LIES[lie])
    tracemalloc.start()
    with pytest.raises(ValueError):
        npz.read_npz(path, ["x"])
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_a_bomb_is_refused_by_its_size(tmp_path):
    """Both where the size is true and where the archive says less."""
    content = header((1 << 28,), "|u1") + bytes(1 << 28)
    path = archive(tmp_path / "x.npz", x=content)
    with pytest.raises(ValueError, match="take 268,435,.* bytes, and of its size at most"):
        npz.read_npz(path, ["x"])
    small = len(header((1000,), "|u1")) + 1000
    sizes = [len(content).to_bytes(4, "little"), small.to_bytes(4, "little")]
    path.write_bytes(path.read_bytes().replace(*sizes))
    with pytest.raises(ValueError):
        npz.read_npz(path, ["x"])


def test_many_arrays_are_refused_together(tmp_path):
    square = header((1 << 12, 1 << 12), "|u1") + bytes(1 << 24)
    path = archive(tmp_path / "x.npz", **{f"x{i}": square for i in range(6)})
    with pytest.raises(ValueError, match="at most"):
        npz.read_npz(path, [f"x{i}" for i in range(6)])
    assert len(npz.read_npz(path, ["x1", "x2"])) == 2


def test_many_entries_take_a_file_that_holds_them(tmp_path):
    """What is made of each takes far more than its byte."""
    few, many = (header((number, 1), "|u1") + b"\1" * number for number in (1 << 19, 1 << 20))
    assert npz.read_npz(archive(tmp_path / "x.npz", x=few), ["x"])["x"].shape == (1 << 19, 1)
    with pytest.raises(ValueError, match="x has 1,048,576 entries, and of this file at most 524,288 are read"):
        npz.read_npz(archive(tmp_path / "x.npz", x=many), ["x"])
    path = archive(tmp_path / "x.npz", zipfile.ZIP_STORED, x=many, other=bytes(1 << 26))
    assert len(npz.read_npz(path, ["x"])["x"]) == 1 << 20


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_are_refused(tmp_path, compression):
    path = archive(tmp_path / "x.npz", compression, x=header((3,), "|u1") + bytes(3))
    with pytest.raises(ValueError, match="compressed in another way"):
        npz.read_npz(path, ["x"])


@pytest.mark.parametrize("seed", range(300))
def test_damaged_bytes_are_noticed(tmp_path, seed):
    """Whatever is flipped or cut off: the arrays are the same, or there are none."""
    chance = np.random.default_rng(seed)
    (np.savez if seed % 2 else np.savez_compressed)(tmp_path / "x.npz", **ARRAYS)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    for place in chance.integers(len(content), size=chance.integers(1, 4)):
        content[place] ^= 1 << chance.integers(8)
    (tmp_path / "x.npz").write_bytes(content[: len(content) - chance.integers(40) * (seed % 3 == 0)])
    try:
        found = npz.read_npz(tmp_path / "x.npz", [*ARRAYS])
    except ValueError:
        return
    for key, array in found.items():
        np.testing.assert_array_equal(array, ARRAYS[key])
