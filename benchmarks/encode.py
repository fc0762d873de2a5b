"""Images and texts per second of the towers, beside PyTorch's: python -m benchmarks.encode.

A ViT-B/16 of random weights; 32 images at a time, already decoded, and 256 texts "a photo of a NAME." as long as
ImageNet's. `texts` are encoded as runs encode them, what they share once; PyTorch has them padded to 77 tokens, as
OpenAI's tokenizer pads, or to the longest. `texts of 77` are whole sequences on both sides. Both sides take turns;
rates are the median, and in brackets the lowest and the highest. `of peak` is what a side computes (the products
of matrices alone, counted from sizes) to the fastest of a few large square products in the same process. On
accelerators there are rows of bfloat16 for our side. With --save the line of JSON is also kept in
results/encode.json.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import inputs, random_clip, timing
from benchmarks.flops import image_flops, prompts_flops, text_flops
from benchmarks.timing import Times, Work
from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.clip.architecture import TextSizes
from pini_jax.clip.prompts import Prompts
from pini_jax.core import mesh
from pini_jax.data import features

RESULT = Path(__file__).parent / "results" / "encode.json"
SIDES = (1024, 2048, 4096)  # of the square matrices
DTYPES = {"cpu": ("float32",)}  # elsewhere also bfloat16
COLUMNS = ("what", "dtype", "ours, per s", "PyTorch, per s", "ratio", "ours, of peak", "PyTorch, of peak")


class Task(NamedTuple):
    """What is measured: a name for the work of each side, how much it encodes, and in how many operations."""

    what: str
    ours: str
    theirs: str
    number: int
    ours_flops: float
    theirs_flops: float


# ------------------------------------------------------------------------------------------------ our side


def make_texts() -> Prompts:
    """A row for each."""
    return inputs.make_texts(inputs.VIT_B_16.text.vocab_size)


def pack(texts: Prompts, sizes: TextSizes) -> Prompts:
    """As a run lays them out."""
    return prompts.lay_out(texts, sizes, mesh.batch_shards(mesh.make_mesh()))


def works(folder: Path, dtype: str) -> dict[str, Work]:
    """By name, compiled; the result of each is waited for."""
    clip, texts = pretrained.load_clip(str(folder), dtype=jnp.dtype(dtype)), make_texts()
    sizes, theta = clip.text_tower.sizes, {key: part for key, part in clip.theta.items() if key != "image"}
    shared = functools.partial(zero_shot.encode_classes, clip.text_tower)
    whole = jax.jit(lambda theta, ids, end: clip.text_tower.apply({"params": theta["text"]}, ids, end))
    product = jax.jit(jnp.matmul)
    encode, pixels = (
        features.make_encoder(clip, mesh.make_mesh()),
        inputs.make_pixels(inputs.VIT_B_16.image.image_size),
    )
    packed = jax.device_put(pack(texts, sizes))
    padded = jax.device_put(inputs.whole(texts, sizes.context_length))
    matrices = {side: jax.random.normal(jax.random.key(side), (side, side)).astype(dtype) for side in SIDES}
    calls = {
        "images": lambda: encode(pixels),
        "texts": lambda: shared(theta, packed),
        "padded": lambda: whole(theta, *padded),
    }
    calls |= {f"product {side}": functools.partial(product, m, m) for side, m in matrices.items()}
    return {f"{name} {dtype}": _waited(call) for name, call in calls.items()}


def _waited(call: Work) -> Work:
    return lambda: jax.block_until_ready(call())


def serve(folder: Path) -> None:
    """The worker of our side."""
    dtypes = DTYPES.get(jax.default_backend(), ("float32", "bfloat16"))
    found = {name: work for dtype in dtypes for name, work in works(folder, dtype).items()}
    for work in found.values():
        work()
    timing.serve(found, dtypes=dtypes)


# ------------------------------------------------------------------------------------------------ the table


def tasks() -> list[Task]:
    """The rows of one dtype."""
    sizes, texts = inputs.VIT_B_16, make_texts()
    whole, length = inputs.whole(texts, sizes.text.context_length), sizes.text.context_length
    image, number, longest = inputs.BATCH * image_flops(sizes), len(texts.end), int(whole.end.max()) + 1
    shared, padded = prompts_flops(sizes, pack(texts, sizes.text)), number * text_flops(sizes, length)
    short = number * text_flops(sizes, longest)
    return [
        Task("images", "images", "images", inputs.BATCH, image, image),
        Task(f"texts (PyTorch: {length} tokens)", "texts", "padded", number, shared, padded),
        Task(f"texts (PyTorch: {longest} tokens)", "texts", "longest", number, shared, short),
        Task(f"texts of {length}", "padded", "padded", number, padded, padded),
    ]


def peak(times: dict[tuple[str, str], Times], side: str, suffix: str = "") -> float:
    """Operations per second of the fastest large product."""
    return max(2 * n**3 / times[side, f"product {n}{suffix}"].lowest for n in SIDES)


def rate(number: float, times: Times) -> dict[str, float]:
    """Per second: the median, and the spread."""
    return dict(median=number / times.median, lowest=number / times.highest, highest=number / times.lowest)


def measure(folder: str, repeats: int, with_torch: bool) -> list[dict]:
    """Every row, of processes that take turns."""
    with timing.Worker("benchmarks.encode", "--serve", folder) as ours:
        dtypes = ours.said["dtypes"]
        products = [f"product {side}" for side in SIDES]
        names = ["images", "texts", "padded", *products]
        chosen = {("ours", f"{name} {dtype}"): (ours, f"{name} {dtype}") for dtype in dtypes for name in names}
        if not with_torch:
            return _rows(dtypes, timing.in_turn(chosen, repeats))
        with timing.Worker("benchmarks.torch_clip", "encode", folder, *map(str, SIDES)) as theirs:
            names = ["images", "padded", "longest", *products]
            chosen |= {("theirs", name): (theirs, name) for name in names}
            return _rows(dtypes, timing.in_turn(chosen, repeats))


def _rows(dtypes: Sequence[str], times: dict[tuple[str, str], Times]) -> list[dict]:
    return [row(task, dtype, times) for dtype in dtypes for task in tasks()]


def row(task: Task, dtype: str, times: dict[tuple[str, str], Times]) -> dict:
    """A line of the table; PyTorch stands beside float32."""
    ours, theirs = times["ours", f"{task.ours} {dtype}"], times.get(("theirs", task.theirs))
    made = dict(what=task.what, dtype=dtype, ours=rate(task.number, ours))
    made["ours_peak"] = peak(times, "ours", f" {dtype}")
    made["ours_fraction"] = task.ours_flops / ours.median / made["ours_peak"]
    if theirs and dtype == "float32":
        made |= dict(theirs=rate(task.number, theirs), theirs_peak=peak(times, "theirs"))
        made["theirs_fraction"] = task.theirs_flops / theirs.median / made["theirs_peak"]
        made["ratio"] = theirs.median / ours.median
    return made


def line(row: dict) -> list[str]:
    """Its cells."""
    rates = [
        "{median:,.1f} ({lowest:,.1f}-{highest:,.1f})".format(**row[side]) if side in row else ""
        for side in ("ours", "theirs")
    ]
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    fractions = [f"{row[name]:.0%}" if name in row else "" for name in ("ours_fraction", "theirs_fraction")]
    return [row["what"], row["dtype"], *rates, ratio, *fractions]


def main() -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # what the process of our side does
    chosen = parser.parse_args()
    if chosen.serve:
        return serve(Path(chosen.serve))
    with_torch = importlib.util.find_spec("torch") is not None
    with tempfile.TemporaryDirectory() as folder:
        random_clip.write(Path(folder), inputs.VIT_B_16)
        rows = measure(folder, chosen.repeats, with_torch)
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    for side in ("ours", "theirs"):
        for dtype, found in sorted({(row["dtype"], row[f"{side}_peak"]) for row in rows if f"{side}_peak" in row}):
            print(f"peak of {side}, {dtype}: {found / 1e9:,.0f} GFLOP/s")
    found = timing.machine(*("torch", "transformers") if with_torch else ()) | dict(rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("dtype", "what"))


if __name__ == "__main__":
    main()
