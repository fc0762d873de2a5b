"""What is worth measuring on an accelerator, best first: python -m benchmarks.accelerator --output=DIR.

Every result is a line of JSON in DIR/results.jsonl as soon as it is there, so that a run that is killed keeps what
it has; on an accelerator it ends after 7 minutes. What cannot be measured here is a line with `left_out`, and why.
On a CPU everything is small, which proves the command and says nothing about speed. Weights are random.

1. `peak`: a square product in each precision, and the bandwidth of memory.
2. `text`: a step on cached features, with operations as `benchmarks.flops` counts them for packed prompts.
3. `images`: the image tower forwards.
4. `lanes`: members of a population side by side; `alone` is the step of one.
5. `peers`: the step beside the paper's in PyTorch, in turn, where that is installed; losses are side by side.
6. `training`: a whole run, by its phases.
7. `switches`: what remat, packed rows, flash attention and many steps per call are worth.

All but `peers` and `training` want no packages but jax, flax, optax and numpy.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing

LIMIT = 420.0  # seconds of the whole
ROUND, CALLS = 0.5, 20  # seconds and calls of a measurement, at most
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
UNUSED = ("jaxtyping", "tokenizers")  # rooms import them, and what is measured calls nothing of theirs
TORCH = ("torch", "transformers", "safetensors", *UNUSED)
DRIVER = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
Row = dict[str, Any]


class Scale(NamedTuple):
    """How large everything is.

    Attributes:
        side: of the square matrices.
        copied: numbers that are read and written for the bandwidth.
        texts, images: names of `towers_of`.
        steps: per call, where a call takes many.
        peers: numbers of classes.
        training: (clip, classes, shots, epochs) as in `benchmarks.population`.
    """

    side: int
    copied: int
    texts: Sequence[str]
    images: Sequence[str]
    batch: int
    classes: Sequence[int]
    lanes: Sequence[int]
    lane_classes: Sequence[int]
    steps: int
    peers: Sequence[int]
    training: tuple[str, int, int, int]


LARGE = Scale(
    8192, 2**29, ("B/16", "L/14"), ("B/16", "L/14-336"), 256, (10, 100, 397, 1000), (1, 5, 15, 45),
    (10, 37, 100), 20, (100, 397), ("", 37, 16, 100),
)  # fmt: skip
SMALL = Scale(64, 2**10, ("tiny",), ("tiny",), 2, (10,), (1, 2), (10,), 2, (), ("tiny_clip", 10, 1, 1))


def towers_of(name: str) -> Any:
    """Sizes of a CLIP."""
    from benchmarks.inputs import VIT_B_16
    from pini_jax.clip.architecture import Architecture, Image, TextSizes, Transformer

    if name == "B/16":
        return VIT_B_16
    if name == "tiny":
        text = TextSizes(700, 77, Transformer(16, 2, 2, 48, causal=True))
        return Architecture(Image(12, 4, Transformer(32, 2, 2, 96)), text, 24)
    text = TextSizes(49408, 77, Transformer(768, 12, 12, 3072, causal=True))
    return Architecture(
        Image(336 if name.endswith("336") else 224, 14, Transformer(1024, 24, 16, 4096)), text, 768
    )


# ------------------------------------------------------------------------------------------------ one measurement


class Work(NamedTuple):
    """A compiled function with its arguments."""

    compiled: jax.stages.Compiled
    arguments: tuple[Any, ...]

    @property
    def measured(self) -> Row:
        """Median milliseconds of a call, and the bytes of what is computed on the way."""
        memory = self.compiled.memory_analysis()
        return dict(ms=1e3 * self.seconds(), temporary_mb=memory.temp_size_in_bytes / 1e6 if memory else None)

    def seconds(self) -> float:
        """Of a call, after one that warms up."""
        taken: list[float] = []
        jax.block_until_ready(self.compiled(*self.arguments))
        while not taken or (sum(taken) < ROUND and len(taken) < CALLS):
            start = time.perf_counter()
            jax.block_until_ready(self.compiled(*self.arguments))
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


def work(function: Callable[..., Any], *arguments: Any) -> Work:
    """Compiled, with its arguments on the device."""
    placed = jax.device_put(arguments)
    return Work(jax.jit(function).lower(*placed).compile(), placed)


def tower_dtype() -> jnp.dtype:
    """What towers compute in."""
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


@functools.cache
def product(side: int, dtype: str, precision: str) -> float:
    """Operations per second of a square product."""
    x = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    return 2 * side**3 / work(functools.partial(jnp.matmul, precision=precision), x, x).seconds()


def of_peak(scale: Scale, flops: float, ms: float) -> Row:
    """Operations that are needed, and their share of the measured peak in the towers' dtype."""
    peak = product(scale.side, tower_dtype().name, "default")
    return dict(gflop=flops / 1e9, of_peak=flops / (ms / 1e3) / peak)


# ------------------------------------------------------------------------------------------------ 1: the device


def measure_peak(scale: Scale) -> Iterator[Row]:
    """Products in every precision; and x + 1, which reads and writes all."""
    for dtype, precision in (("bfloat16", "default"), ("float32", "tensorfloat32"), ("float32", "highest")):
        yield dict(dtype=dtype, precision=precision, tflops=product(scale.side, dtype, precision) / 1e12)
    copy = work(lambda x: x + 1, np.zeros(scale.copied, np.float32))
    yield dict(what="bandwidth", gb_per_second=8 * scale.copied / copy.seconds() / 1e9)


# ------------------------------------------------------------------------------------------------ 2: texts


class TextStep(NamedTuple):
    """(phi, theta, text, batch, key) -> (phi, loss), with what it is called with; the released noise."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    flops: float


def text_step(name: str, classes: int, remat: bool = False, packed: bool = True) -> TextStep:
    """A step on cached features: forwards, the gradient of the trainables, and plain SGD."""
    from benchmarks import flops, inputs
    from pini_jax.clip import prompts, towers
    from pini_jax.methods import forward
    from pini_jax.methods.method import Batch, Text, Variables
    from pini_jax.methods.pini import Injector
    from pini_jax.noise import sites
    from pini_jax.noise.draws import draw_batch

    sizes, dtype = towers_of(name), tower_dtype()
    apart = inputs.make_prompts(inputs.LENGTHS[classes], sizes.text.vocab_size)
    rows, numbers = prompts.pack(apart), inputs.make_numbers(sizes, apart, steps=0)
    tower = towers.TextTower(sizes.text, sizes.embed_dim, dtype, remat=remat)
    ids, end = np.zeros((1, sizes.text.context_length), np.int32), np.zeros(1, np.int32)
    theta = jax.jit(tower.init)(jax.random.key(0), ids, end)["params"]
    theta["blocks"] = jax.tree.map(lambda x: x.astype(dtype), theta["blocks"])
    chosen = {"prompt_tokens": {"generator": "table"}, "image_features": {"generator": "cross_attention"}}
    method = Injector(tower, sites.build_noise(sites.noise_with_defaults(chosen)))

    def call(phi: Any, theta: Any, text: Text, batch: Batch, key: Any) -> tuple[Any, Any]:
        def loss(phi: Any) -> Any:
            draw = draw_batch(key, len(batch.labels), {})
            return forward.loss(method, Variables(phi), theta, text, batch, draw)[0].loss

        value, gradient = jax.value_and_grad(loss)(phi)
        return jax.tree.map(lambda w, g: w - 1e-3 * g, phi, gradient), value

    features = np.zeros(
        (1, classes, sizes.embed_dim), np.float32
    )  # of plain CLIP, which are nothing to this noise
    text = Text(features, rows if packed else apart)
    batch = Batch(numbers.features, numbers.labels, np.ones(len(numbers.labels), np.float32))
    given = {"text": theta, "logit_scale": np.float32(np.log(100))}
    arguments = (numbers.phi, given, text, batch, jax.random.key(1))
    return TextStep(call, arguments, flops.step_flops(sizes, rows))


def measure_texts(scale: Scale) -> Iterator[Row]:
    """Steps by tower and number of classes."""
    for name in scale.texts:
        for classes in scale.classes:
            step = text_step(name, classes)
            found = work(step.call, *step.arguments)
            measured = found.measured
            loss = float(found.compiled(*found.arguments)[1])
            yield (
                dict(tower=name, classes=classes, loss=loss)
                | measured
                | of_peak(scale, step.flops, measured["ms"])
            )


# ------------------------------------------------------------------------------------------------ 3: images


def image_work(name: str, batch: int) -> Work:
    """The image tower forwards."""
    from pini_jax.clip import towers

    sizes, dtype = towers_of(name), tower_dtype()
    tower, side = towers.image_tower(sizes, dtype), sizes.image.image_size
    pixels = jax.random.normal(jax.random.key(0), (batch, side, side, 3))
    theta = jax.jit(tower.init)(jax.random.key(0), pixels[:1])["params"]
    theta["blocks"] = jax.tree.map(lambda x: x.astype(dtype), theta["blocks"])
    return work(lambda theta, pixels: tower.apply({"params": theta}, pixels), theta, pixels)


def measure_images(scale: Scale) -> Iterator[Row]:
    """Images per second by tower."""
    from benchmarks import flops

    for name in scale.images:
        measured = image_work(name, scale.batch).measured
        rate = dict(tower=name, batch=scale.batch, per_second=scale.batch / measured["ms"] * 1e3)
        yield rate | measured | of_peak(scale, scale.batch * flops.image_flops(towers_of(name)), measured["ms"])


# ------------------------------------------------------------------------------------------------ 4: lanes


def measure_lanes(scale: Scale) -> Iterator[Row]:
    """Milliseconds per member and step, and how often faster than one after another that is."""
    for classes in scale.lane_classes:
        step = text_step(scale.texts[0], classes)
        phi, theta, text, batch, key = step.arguments
        alone = work(step.call, *step.arguments).seconds()
        for members in scale.lanes:
            many_phi, many_batches = jax.tree.map(lambda x, n=members: np.stack([x] * n), (phi, batch))
            lanes = jax.vmap(step.call, in_axes=(0, None, None, 0, 0))
            arguments = (many_phi, theta, text, many_batches, jax.random.split(key, members))
            each = work(lanes, *arguments).seconds() / members
            yield dict(classes=classes, members=members, ms=1e3 * each, alone_ms=1e3 * alone, ratio=alone / each)


# ------------------------------------------------------------------------------------------------ 5: PyTorch


def measure_peers(scale: Scale) -> Iterator[Row]:
    """Rows of `benchmarks.step`."""
    if absent := missing(TORCH):
        yield dict(left_out=f"{', '.join(absent)} is missing")
        return
    if not scale.peers:
        yield dict(left_out="python -m benchmarks.step measures this on a CPU")
        return
    from benchmarks import inputs, random_clip, step

    with tempfile.TemporaryDirectory() as folder:
        random_clip.write(Path(folder), inputs.VIT_B_16)
        for classes in scale.peers:
            yield from step.measure(classes, folder, repeats=3, with_torch=True)


# ------------------------------------------------------------------------------------------------ 6: a training


def measure_training(scale: Scale) -> Iterator[Row]:
    """Seconds from start to end, and those of the phases as result.json has them."""
    from benchmarks import population
    from pini_jax.runs import experiment

    clip, classes, shots, epochs = scale.training
    case = population.Case("training", clip, classes, shots, {"seed": (1,)}, 0, epochs, epochs)
    with tempfile.TemporaryDirectory() as folder:
        (config,) = population.members(case, Path(folder))
        start = time.perf_counter()
        result = experiment.train_and_evaluate(config, Path(folder) / "run")
        total = time.perf_counter() - start
    told = {name: result[name] for name in ("steps", "steps_per_second", "seconds")}
    yield dict(classes=classes, shots=shots, epochs=epochs, total=total) | told


# ------------------------------------------------------------------------------------------------ 7: switches


def measure_switches(scale: Scale) -> Iterator[Row]:
    """Milliseconds of a step, or of a batch of images, with a switch on and off."""
    name, classes = scale.texts[0], min(100, max(scale.classes))
    for switch in ("remat", "packed"):
        for on in (False, True):
            step = text_step(name, classes, **{switch: on})
            yield (
                dict(switch=switch, on=on, tower=name, classes=classes) | work(step.call, *step.arguments).measured
            )
    for steps in (1, scale.steps):
        step = text_step(name, classes)
        each = work(many(step.call, steps), *step.arguments).seconds() / steps
        yield dict(switch="steps per call", on=steps, tower=name, classes=classes, ms=1e3 * each)
    yield from measure_flash(scale)


def many(call: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """So many steps, one after another within one call."""

    def body(phi: Any, theta: Any, text: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda phi, key: call(phi, theta, text, batch, key), phi, jax.random.split(key, steps))

    return body


def measure_flash(scale: Scale) -> Iterator[Row]:
    """The image tower with cuDNN's attention and with XLA's."""
    from pini_jax.clip import attention

    name, has_flash = scale.images[0], attention._has_flash
    heads = towers_of(name).image.transformer
    if not has_flash(tower_dtype(), heads.width // heads.heads):
        yield dict(switch="flash", left_out="no flash attention on this device")
        return
    try:
        for on in (False, True):
            attention._has_flash = has_flash if on else lambda dtype, channels: False  # type: ignore[assignment]
            yield dict(switch="flash", on=on, tower=name) | image_work(name, scale.batch).measured
    finally:
        attention._has_flash = has_flash


# ------------------------------------------------------------------------------------------------ the whole

PHASES = {
    "peak": measure_peak,
    "text": measure_texts,
    "images": measure_images,
    "lanes": measure_lanes,
    "peers": measure_peers,
    "training": measure_training,
    "switches": measure_switches,
}


def missing(names: Sequence[str]) -> list[str]:
    """Those that are not installed, or have a stand-in."""

    absent = {name for name, module in sys.modules.items() if isinstance(module, MagicMock)}
    return [name for name in names if name in absent or importlib.util.find_spec(name) is None]


def stand_in() -> list[str]:
    """Puts something in the place of packages that are imported and not used; the names of those not installed."""
    absent = missing(UNUSED)
    sys.modules.update({name: MagicMock() for name in absent})
    return absent


def machine() -> Row:
    """Device, versions, and what NVIDIA's driver says of the card."""
    card = subprocess.run(DRIVER, capture_output=True, text=True).stdout.strip() if shutil.which(DRIVER[0]) else ""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return dict(device=device, card=card, processor=timing.processor(), cores=os.cpu_count(), versions=versions)


def measure(scale: Scale, phases: Sequence[str], write: Callable[[Row], None]) -> None:
    """Writes the rows of the phases in turn; a phase that fails is left out from there on, and the next begins."""
    write(dict(phase="machine") | machine() | dict(without=stand_in()))
    for phase in phases:
        try:
            for row in PHASES[phase](scale):
                write(dict(phase=phase) | row)
        except ImportError as error:
            write(dict(phase=phase, left_out=f"{error.name or error} is missing"))
        except Exception as error:  # of a device that nobody has seen: what comes after is worth having
            write(dict(phase=phase, left_out=f"{type(error).__name__}: {str(error).splitlines()[0:1]}"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes DIR/results.jsonl, and prints the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES))
    chosen = parser.parse_args(arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with (chosen.output / "results.jsonl").open("w", buffering=1) as file:

        def write(row: Row) -> None:
            line = json.dumps(row | dict(at=round(time.monotonic() - start, 1)))
            print(line, file=file)
            print(line, flush=True)

        def end() -> None:
            write(dict(phase="end", left_out=f"all that comes after {LIMIT:.0f} seconds"))
            os._exit(0)  # the device may be in the middle of anything

        on_cpu = jax.default_backend() == "cpu"
        timer = threading.Timer(LIMIT, end)
        timer.daemon = True
        if not on_cpu:
            timer.start()
        measure(SMALL if on_cpu else LARGE, chosen.phases, write)
        timer.cancel()


if __name__ == "__main__":
    main()
