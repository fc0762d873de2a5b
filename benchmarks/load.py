"""Memory and seconds of loading a ViT-L/14 of random weights: python -m benchmarks.load.

Every row is a process of its own, which loads one file with `clip.pretrained.load`. `peak` is the greatest
resident memory of that process, interpreter and JAX included; `before` is what it was after the imports. `held` is
the dtype of the parameters, which stay in memory. `ratio` is the peak to the file, or to the parameters where they
are larger. The archive is measured where PyTorch is there to write it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pini_jax.clip import architecture, pretrained
from pini_jax.clip.checkpoints import hub, hugging_face, weights

# (file, its dtype, dtype of the parameters)
ROWS = (
    ("model.safetensors", "float32", "float32"),
    ("model.safetensors", "float16", "float32"),
    ("model.safetensors", "float32", "bfloat16"),
    ("pytorch_model.bin", "float32", "float32"),
)
COLUMNS = {
    "file": "",
    "stored": "",
    "held": "",
    "file_mb": ",.0f",
    "parameters_mb": ",.0f",
    "before_mb": ",.0f",
    "peak_mb": ",.0f",
    "ratio": ".2f",
    "seconds": ".1f",
}
VIT_L_14 = dict(
    model_type="clip",
    projection_dim=768,
    text_config=dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
    vision_config=dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_hidden_layers=24,
        patch_size=14,
    ),
)


def write_safetensors(path: Path, shapes: Mapping[str, weights.Shape], dtype: str) -> None:
    """A file of small random numbers, of which one tensor at a time is in memory."""
    header, end, rng = {}, 0, np.random.default_rng(0)
    for key, shape in shapes.items():
        start, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[key] = dict(dtype=f"F{dtype[-2:]}", shape=shape, data_offsets=(start, end))
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            (rng.standard_normal(shape, np.float32) * np.float32(0.02)).astype(dtype).tofile(file)


def write_folder(folder: Path, sizes: architecture.Architecture, name: str, dtype: str) -> None:
    """A Hugging Face folder with the bundled tokenizer."""
    (folder / "config.json").write_text(json.dumps(VIT_L_14))
    shutil.copy(hub.BUNDLED / "tokenizer.json", folder)
    safe = folder / "model.safetensors"
    write_safetensors(safe, weights.tensor_shapes(hugging_face.CLIP, sizes), dtype)
    if name != safe.name:
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(safe), folder / name)
        safe.unlink()


def peak() -> int:
    """The greatest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts the process that this one was before it ran Python
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


def measure(folder: Path, dtype: str) -> dict:
    """Loads the folder in this process."""
    jax.devices()
    before, start = peak(), time.perf_counter()
    leaves = jax.tree.leaves(pretrained.load_clip(str(folder), dtype=jnp.dtype(dtype)).theta)
    return dict(
        seconds=time.perf_counter() - start,
        before_mb=before / 1e6,
        peak_mb=peak() / 1e6,
        parameters=sum(leaf.size for leaf in leaves),
        parameters_mb=sum(leaf.nbytes for leaf in leaves) / 1e6,
    )


def in_a_process(*arguments: str) -> str:
    """What this module prints, run anew."""
    command = [sys.executable, "-m", "benchmarks.load", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def row(name: str, stored: str, held: str) -> dict:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        in_a_process("--write", folder, name, stored)
        file_mb = (Path(folder) / name).stat().st_size / 1e6
        measured = json.loads(in_a_process("--load", folder, held))
    ratio = measured["peak_mb"] / max(file_mb, measured["parameters_mb"])
    return dict(file=name, stored=stored, held=held, file_mb=file_mb, ratio=ratio, **measured)


def table(rows: Sequence[Mapping]) -> str:
    """The columns of all rows, aligned."""
    lines = [list(COLUMNS), *([format(row[name], how) for name, how in COLUMNS.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def main() -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    # What the processes of a row do.
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        folder, name, dtype = arguments.write
        write_folder(Path(folder), hugging_face.read_hugging_face_config(VIT_L_14), name, dtype)
    elif arguments.load:
        folder, dtype = arguments.load
        print(json.dumps(measure(Path(folder), dtype)))
    else:
        with_torch = importlib.util.find_spec("torch") is not None
        rows = [row(*chosen) for chosen in ROWS if with_torch or not chosen[0].endswith(".bin")]
        print(table(rows))
        print(json.dumps(dict(jax=jax.__version__, device=jax.devices()[0].platform, rows=rows)))


if __name__ == "__main__":
    main()
