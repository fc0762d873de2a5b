"""Checkpoint tensors <-> parameters: one table per naming scheme, strict in both directions.

A row of a table says which tensors of the file become which parameter, and in what layout. Several tensors in
one row are joined along their first axis; `{i}` stands for the number of a layer, and the layers of one row are
stacked into the leading axis of the parameter. A table may have rows for parts that a model lacks: they are
passed over. The tables are in `hugging_face` and `open_clip`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from pini_jax.clip import towers
from pini_jax.clip.architecture import Architecture
from pini_jax.clip.checkpoints import sharding
from pini_jax.clip.checkpoints.tensors import Tensors
from pini_jax.core import mesh as meshes
from pini_jax.core.errors import InputError
from pini_jax.core.shapes import Parameters
from pini_jax.core.wording import listed

LOG = logging.getLogger(__name__)
SCALES = (0.5, 9.0)  # of logit_scale; training starts at 2.7, and every published CLIP lies between 4 and 5

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How a tensor of the file is laid out, given the shape of the parameter it becomes.

    Attributes:
        shape: shape of the parameter -> shape of the tensor.
        view: (parameter, shape of the tensor) -> the same memory as the tensor: read to save, written to load.
    """

    shape: Callable[[Shape], Shape]
    view: Callable[[np.ndarray, Shape], np.ndarray]


def leading(axes: int) -> Layout:
    """The parameter behind so many axes of one element."""
    return Layout(shape=lambda s: (1,) * axes + s, view=lambda x, s: x.reshape(s))


def _linear(inputs: int) -> Layout:
    """PyTorch's Linear weight [out, in]; the parameter has `inputs` leading input axes."""
    return Layout(
        shape=lambda s: (math.prod(s[inputs:]), math.prod(s[:inputs])),
        view=lambda x, s: x.reshape(s[::-1]).T,
    )


def _patches_shape(s: Shape) -> Shape:
    patch = math.isqrt(s[0] // 3)
    return s[1], 3, patch, patch


SAME = Layout(shape=lambda s: s, view=lambda x, s: x)
VECTOR = Layout(shape=lambda s: (math.prod(s),), view=lambda x, s: x.reshape(s))
LINEAR = _linear(inputs=1)
LINEAR_OUT = _linear(inputs=2)
CONV = Layout(
    shape=lambda s: (s[3], s[2], s[0], s[1]),
    view=lambda x, s: x.transpose(3, 2, 0, 1),
)
PATCHES = Layout(
    shape=_patches_shape,
    view=lambda x, s: CONV.view(x.reshape(s[2], s[3], s[1], s[0]), s),
)


class Row(NamedTuple):
    """The tensors `keys` of the file, joined, become `parameter` (a slash-separated path).

    Attributes:
        shares: what part of the whole each tensor is; empty where all are alike.
    """

    parameter: str
    keys: tuple[str, ...]
    layout: Layout
    shares: tuple[int, ...] = ()


class Scheme(NamedTuple):
    """A naming scheme: its rows, and the endings of keys that hold no parameter."""

    rows: tuple[Row, ...]
    ignored: tuple[str, ...] = ()


def norm(parameter: str, key: str) -> list[Row]:
    """Rows of a norm's scale and bias."""
    return [
        Row(f"{parameter}/scale", (f"{key}.weight",), VECTOR),
        Row(f"{parameter}/bias", (f"{key}.bias",), VECTOR),
    ]


def dense(
    parameter: str,
    keys: str | tuple[str, ...],
    layout: Layout = LINEAR,
    join: str = ".",
    shares: tuple[int, ...] = (),
) -> list[Row]:
    """Rows of the kernel and bias of a linear map, or of several that are one here."""
    keys = (keys,) if isinstance(keys, str) else keys
    return [
        Row(f"{parameter}/kernel", tuple(f"{key}{join}weight" for key in keys), layout, shares),
        Row(f"{parameter}/bias", tuple(f"{key}{join}bias" for key in keys), VECTOR, shares),
    ]


def parameter_shapes(sizes: Architecture) -> dict[str, Shape]:
    """Shapes of all parameters, by slash-separated path; allocates nothing."""
    side = sizes.image.image_size
    pixels = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    ids, end = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, sizes.text.context_length), (1,)))
    key = jax.eval_shape(jax.random.key, 0)
    tree = jax.eval_shape(towers.ClipModel(sizes).init, key, pixels, ids, end)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


class _Slot(NamedTuple):
    """One row at one layer: the shapes of the tensors it reads by key, and where they go (None: not stacked)."""

    row: Row
    tensor_shapes: dict[str, Shape]
    layer: int | None


def _slots(scheme: Scheme, shapes: Mapping[str, Shape]) -> Iterator[_Slot]:
    rows = [row for row in scheme.rows if row.parameter in shapes]
    if unknown := shapes.keys() - {row.parameter for row in rows}:
        raise ValueError(f"the naming scheme has no row for {sorted(unknown)}")
    for row in rows:
        shape = shapes[row.parameter]
        stacked = "{i}" in row.keys[0]
        whole = row.layout.shape(shape[1:] if stacked else shape)
        shares = row.shares or (1,) * len(row.keys)
        parts = [(whole[0] * share // sum(shares), *whole[1:]) if whole else () for share in shares]
        for i in range(shape[0]) if stacked else [None]:
            keys = [key.format(i=i) for key in row.keys]
            yield _Slot(row, dict(zip(keys, parts, strict=True)), i)


def tensor_shapes(scheme: Scheme, sizes: Architecture) -> dict[str, Shape]:
    """Shapes of the tensors in a file of this scheme, by key."""
    slots = _slots(scheme, parameter_shapes(sizes))
    return {key: shape for slot in slots for key, shape in slot.tensor_shapes.items()}


def _check(scheme: Scheme, slots: Sequence[_Slot], tensors: Tensors, name: str) -> None:
    expected = {key: shape for slot in slots for key, shape in slot.tensor_shapes.items()}
    present = {key for key in tensors if not key.endswith(scheme.ignored)} if scheme.ignored else set(tensors)
    wrong = [
        f"{key} has shape {list(tensors[key].shape)}, not {list(shape)}"
        for key, shape in expected.items()
        # Scalars are stored with or without an axis.
        if key in present and tensors[key].shape != shape and not (shape == () and tensors[key].shape == (1,))
    ]
    problems = [f"missing tensor {key}" for key in expected if key not in present]
    problems += [f"unknown tensor {key}" for key in sorted(present - expected.keys())]
    problems += wrong
    if problems:
        raise InputError(f"{name} does not hold this CLIP ({len(problems)} problems): {listed(problems, '; ')}")


def load_weights(
    scheme: Scheme,
    sizes: Architecture,
    tensors: Tensors,
    dtype: jnp.dtype,
    name: str,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Reads the parameters of a CLIP, one at a time from file to device.

    Args:
        dtype: of every parameter but temperature and bias of the logits, which stay in float32.
        name: what error messages call the checkpoint.
        mesh: over which the parameters are placed as `sharding` says; None for JAX's default device.

    Raises:
        InputError: a tensor is missing, unknown or of another shape; the message lists them. Or one is not finite,
            or the temperature is no logarithm. Or the mesh cannot split these towers.
    """
    sharding.check_shards(mesh, sizes)
    shapes = parameter_shapes(sizes)
    slots = list(_slots(scheme, shapes))
    _check(scheme, slots, tensors, name)

    def read(parameter: str) -> np.ndarray:
        shape = shapes[parameter]
        value = _aligned(shape, jnp.dtype(dtype if shape else jnp.float32))
        for slot in (slot for slot in slots if slot.row.parameter == parameter):
            for key, part in _views(slot, value).items():
                tensors[key].copy_to(part)
                if parameter == "logit_scale":
                    _check_scale(float(value), tensors[key].name)
        return value

    # The greatest first: a device that does not share the host's memory has its copy before the host's is freed.
    order = sorted(shapes, key=lambda parameter: -math.prod(shapes[parameter]))
    placed = {}
    for parameter in order:
        where = sharding.of(mesh, parameter, shapes[parameter])
        placed[parameter] = meshes.put(read(parameter), where).block_until_ready()
    return unflatten_dict(placed, sep="/")


def _check_scale(scale: float, name: str) -> None:
    """Logits are cosines times exp(scale); some store exp(scale), or exp(-scale), in its place."""
    least, most = SCALES
    if scale > most:
        raise InputError(
            f"{name} is {scale:g}, and logits would be cosines times exp({scale:g}): it looks like exp(s), stored "
            f"in place of s; save its logarithm, {math.log(scale):.4f}"
        )
    if scale < least:
        LOG.warning("%s is %g: cosines times %.3g leave all classes as likely", name, scale, math.exp(scale))


def _views(slot: _Slot, value: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a slot, by key, as views of the parameter that they become."""
    value = value if slot.layer is None else value[slot.layer]
    shapes = list(slot.tensor_shapes.values())
    if () in shapes:
        return dict.fromkeys(slot.tensor_shapes, value)
    lengths = [shape[0] for shape in shapes]
    joined = slot.row.layout.view(value, (sum(lengths), *shapes[0][1:]))
    return dict(zip(slot.tensor_shapes, np.split(joined, np.cumsum(lengths)[:-1]), strict=True))


def _aligned(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """An empty array where JAX wants it: on a CPU it becomes the parameter, without another copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def save_weights(path: Path, scheme: Scheme, theta: Parameters) -> None:
    """Writes parameters as a safetensors file of the given scheme; inverse of `load_weights`."""
    flat = {path: np.asarray(leaf) for path, leaf in flatten_dict(theta, sep="/").items()}
    tensors = {
        key: np.array(view, order="C")
        for slot in _slots(scheme, {path: leaf.shape for path, leaf in flat.items()})
        for key, view in _views(slot, flat[slot.row.parameter]).items()
    }
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
