"""Images per second of decoding, of transforming and of a ViT-B/32's image tower: python -m benchmarks.data.

The images are JPEGs of noise, of the size of ImageNet's and of a camera's. The tower is of random weights, in
float32. `decode`, `transform` and `view` are of one thread, where a view is decoded and transformed; `whole file`
is a training view without JPEG's reduced scale. `read` is what the tower is fed with, by all threads: views, and
their normalisation. `features` is all of it, from files to features on the disk. Every number is the median of
the repeats, beside the lowest and the highest. With --save the line of JSON is also kept in results/data.json.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from pini_jax.clip import towers
from pini_jax.clip.checkpoints import hugging_face
from pini_jax.clip.preprocessing import Preprocessing
from pini_jax.clip.pretrained import Pretrained
from pini_jax.core import mesh
from pini_jax.data import features, transforms
from pini_jax.data import views as pixels
from pini_jax.data.datasets.records import Record, open_image
from pini_jax.data.transforms import Augment
from pini_jax.runs import provenance

RESULT = Path(__file__).parent / "results" / "data.json"
SIZES = {"500x375": 128, "2000x1500": 32}  # width x height -> how many images
THREADS = (1, 2, 3, 8)
BATCH = 32
SEED = 0
VIT_B_32 = dict(
    model_type="clip",
    projection_dim=512,
    text_config=dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8),
    vision_config=dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=32),
)
AUGMENT, PREPROCESSING = Augment(), Preprocessing()
Work = Callable[[], int]  # returns how many images it has worked on


class Row(NamedTuple):
    """Images per second of one stage."""

    stage: str
    images: str
    median: float
    lowest: float
    highest: float


def write_photographs(folder: Path, size: str, number: int) -> tuple[Record, ...]:
    """JPEG files of noise at several scales, down to a film's grain: 3.6 bits per pixel, as photographs."""
    width, height = map(int, size.split("x"))
    chance = np.random.default_rng(SEED)
    records = []
    for i in range(number):
        layers = [
            np.asarray(Image.fromarray(chance.integers(0, 256, (n, n, 3), np.uint8)).resize((width, height)))
            for n in (4, 16, 64, 256)
        ]
        grain = chance.normal(0, 12, (height, width, 1))
        mixed = (np.average(layers, axis=0, weights=(8, 4, 2, 1)) + grain).clip(0, 255).astype(np.uint8)
        path = folder / f"{size}-{i}.jpg"
        Image.fromarray(mixed).save(path, quality=90)
        records.append(Record(path.name, path, 0))
    return tuple(records)


def make_clip() -> Pretrained:
    """A ViT-B/32's image tower of random weights; there is no text tower."""
    sizes = hugging_face.read_hugging_face_config(VIT_B_32)
    tower = towers.image_tower(sizes, jnp.float32)
    side = PREPROCESSING.crop
    params = jax.jit(tower.init)(jax.random.key(SEED), jnp.zeros((1, side, side, 3)))["params"]
    absent: Any = None
    return Pretrained(tower, absent, {"image": params}, absent, PREPROCESSING, "random", "")


def each(function: Callable[[Any], object], items: Sequence) -> Work:
    """Calls it with every item, in this thread."""
    return lambda: len([function(item) for item in items])


def read(records: Sequence[Record], augment: Augment | None, threads: int) -> Iterator[np.ndarray]:
    """What the tower is fed with."""

    def view(i: int) -> np.ndarray:
        return PREPROCESSING.normalise(pixels.view_pixels(records[i], PREPROCESSING, augment, SEED, 0, i))

    return pixels.batches(view, range(len(records)), BATCH, threads)


def one_thread(records: Sequence[Record]) -> dict[str, Work]:
    """The parts of reading. What is decoded stays in memory, so that of the large images there are but eight."""
    numbered = list(enumerate(records))
    decoded = [(i, open_image(record)) for i, record in numbered[: len(records) // 4]]

    def train_view(pair: tuple[int, Image.Image]) -> np.ndarray:
        return transforms.train_view(pair[1], PREPROCESSING, AUGMENT, SEED, 0, pair[0])

    def view(pair: tuple[int, Record], augment: Augment | None) -> np.ndarray:
        return pixels.view_pixels(pair[1], PREPROCESSING, augment, SEED, 0, pair[0])

    return {
        "decode": each(open_image, records),
        "transform, evaluation": each(lambda pair: transforms.evaluation_view(pair[1], PREPROCESSING), decoded),
        "transform, training": each(train_view, decoded),
        "view, evaluation": each(functools.partial(view, augment=None), numbered),
        "view, training, whole file": each(lambda pair: train_view((pair[0], open_image(pair[1]))), numbered),
        "view, training": each(functools.partial(view, augment=AUGMENT), numbered),
    }


def with_threads(records: Sequence[Record], clip: Pretrained) -> dict[str, Work]:
    """Reading as a run does it, alone and with the tower."""
    encode, seeds = features.make_encoder(clip, mesh.make_mesh()), itertools.count()

    def together() -> int:
        """A seed of its own every time, so that nothing comes from the cache."""
        return len(features.features(records, clip, encode, AUGMENT, seed=next(seeds)))

    return {
        "read, evaluation": lambda: sum(map(len, read(records, None, pixels.THREADS))),
        "read, training": lambda: sum(map(len, read(records, AUGMENT, pixels.THREADS))),
        "features, training": together,
    }


def tower(clip: Pretrained) -> Work:
    """The image tower over one batch that is there already."""
    encode = features.make_encoder(clip, mesh.make_mesh())
    batch = np.random.default_rng(SEED).standard_normal((BATCH, 224, 224, 3), np.float32)
    return lambda: len(jax.block_until_ready(encode(batch)))


def measure(stage: str, images: str, work: Work, repeats: int) -> Row:
    """The work's images per second; a first time, which compiles and opens files, does not count."""
    work()
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        number = work()
        rates.append(number / (time.perf_counter() - start))
    row = Row(stage, images, statistics.median(rates), min(rates), max(rates))
    print(
        f"{row.stage:28} {row.images:>10} {row.median:10,.0f} {row.lowest:10,.0f} {row.highest:10,.0f}", flush=True
    )
    return row


def digest(records: Sequence[Record], threads: int) -> str:
    """Names the pixels of all training views."""
    hashed = hashlib.sha256()
    for batch in read(records, AUGMENT, threads):
        hashed.update(batch.tobytes())
    return hashed.hexdigest()


def main() -> None:
    """Prints the table, what is slowest, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # of other work on the machine
    print(f"{'images per second':28} {'':>10} {'median':>10} {'lowest':>10} {'highest':>10}")
    clip, rows = make_clip(), []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        rows.append(measure("tower", "", tower(clip), arguments.repeats))
        for size, number in SIZES.items():
            records = write_photographs(Path(folder), size, number)
            for stage, work in (one_thread(records) | with_threads(records, clip)).items():
                rows.append(measure(stage, size, work, arguments.repeats))
        same = len({digest(records, threads) for threads in THREADS}) == 1
    feeding = [row for row in rows if row.stage.startswith(("tower", "read"))]
    slowest = min(feeding, key=lambda row: row.median)
    print(f"slowest: {slowest.stage} {slowest.images}")
    print(f"pixels with {', '.join(map(str, THREADS))} threads: {'the same' if same else 'DIFFERENT'}")
    found = dict(
        device=provenance.device(),
        cores=os.cpu_count(),
        threads=pixels.THREADS,
        load=load,
        versions=provenance.versions(),
        slowest=slowest.stage,
        same_pixels=same,
        rows=[row._asdict() for row in rows],
    )
    print(json.dumps(found))
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
