"""PyTorch's archives, written byte by byte: with or without PyTorch, and as PyTorch never would."""

import zipfile

import numpy as np


def _number(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def _text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def item(offset, size, stride, storage=b"ctorch\nFloatStorage\n", key="a", entry="s"):
    """What a pickle says of the tensor `key` over the entry data/`entry`, opcode by opcode."""
    place = b"(" + _text("storage") + storage + _text(entry) + _text("cpu") + _number(4) + b"tQ"
    shape = b"".join(b"(" + b"".join(map(_number, x)) + b"t" for x in (size, stride))
    rest = b"\x88" + b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + place + _number(offset) + shape + rest + b"t"
    return _text(key) + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs"


def pickled(*items):
    """The pickle of a dictionary of tensors."""
    return b"\x80\x02}" + b"".join(items) + b"."


def write(path, pickle, compress=(), **entries):
    """An archive with a pickle, and entries of data; those named in `compress` are deflated."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": pickle, **{f"data/{x}": y for x, y in entries.items()}}.items():
            how = zipfile.ZIP_DEFLATED if name.split("/")[-1] in compress else zipfile.ZIP_STORED
            file.writestr(f"archive/{name}", content, how)
    return path


def write_tensors(path, tensors):
    """An archive of float32 arrays, each with a storage of its own."""
    items, entries = [], {}
    for i, (key, value) in enumerate(tensors.items()):
        strides = [step // 4 for step in np.ascontiguousarray(value).strides[: value.ndim]]
        items.append(item(0, value.shape, strides, key=key, entry=str(i)))
        entries[str(i)] = value.astype(np.float32).tobytes()
    return write(path, pickled(*items), **entries)
