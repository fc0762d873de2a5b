"""Milliseconds for one image, and seconds to the first answer of a new process: python -m benchmarks.latency.

`one image` is `Classifier.predict_proba` of a uint8 array, warm, beside the bare image tower on an array that is
pre-processed already, in the same process and by turns; `more` is what stands around the tower. `first answer` is
a process that imports the package, loads a saved classifier and classifies a file, with compiled programs in the
cache, as in every process but the first; in brackets the part that imports take. With --save the line of JSON is
also kept in results/latency.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from benchmarks import inputs, random_clip, timing
from benchmarks.timing import Times
from pini_jax import Classifier

RESULT = Path(__file__).parent / "results" / "latency.json"
COLUMNS = ("CLIP", "the tower, ms", "one image, ms", "more, ms", "first answer, s (imports)")
TARGETS = {"more": 5.0, "first": 3.0}  # milliseconds; seconds, of tiny_clip on two cores
FIRST = """
import sys, time
start = time.perf_counter()
import jax, pini_jax.use.estimator as estimator
imported = time.perf_counter()
estimator.Classifier.load(sys.argv[1]).predict([sys.argv[2]])
print(imported - start)
"""


def clips(folder: Path) -> dict[str, str]:
    """Names of CLIPs, and where they are."""
    made = folder / "random"
    made.mkdir()
    random_clip.write(made, inputs.VIT_B_32)
    return {"tiny_clip": "tiny_clip", "random ViT-B/32": str(made)}


def fit(clip: str, method: str) -> Classifier:
    """A classifier of ten classes, a grey picture each."""
    pictures = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(10)]
    return Classifier(clip, method=method, views=1).fit(pictures, [f"class {i}" for i in range(10)])


def in_turn(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Seconds of each, by turns, warm."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 3):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn >= 3:
                seconds[name].append(time.perf_counter() - start)
    return {name: timing.summarise(found) for name, found in seconds.items()}


def one_image(classifier: Classifier, repeats: int) -> dict[str, Times]:
    """The tower alone, and all of a prediction."""
    towers, picture = classifier.trained_.towers, np.zeros((224, 224, 3), np.uint8)
    pixels = np.zeros((1, towers.clip.preprocessing.crop, towers.clip.preprocessing.crop, 3), np.float32)
    works = {
        "tower": lambda: jax.block_until_ready(towers.encode(pixels)),
        "all": lambda: classifier.predict_proba([picture]),
    }
    return in_turn(works, repeats)


def first_answer(classifier: Classifier, folder: Path, repeats: int) -> dict[str, Times]:
    """Seconds of whole processes, and of their imports."""
    saved, picture = folder / "classifier.safetensors", folder / "picture.png"
    classifier.save(saved)
    Image.new("RGB", (224, 224)).save(picture)
    whole, imports = [], []
    for turn in range(repeats + 1):
        start = time.perf_counter()
        command = [sys.executable, "-c", FIRST, str(saved), str(picture)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if turn:  # the first one fills the cache
            whole.append(time.perf_counter() - start)
            imports.append(float(said))
    return {"first": timing.summarise(whole), "imports": timing.summarise(imports)}


def main() -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--method", default="tip_adapter")
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, clip in clips(Path(folder)).items():
            classifier = fit(clip, chosen.method)
            times = one_image(classifier, chosen.repeats) | first_answer(
                classifier, Path(folder), chosen.processes
            )
            rows.append({"clip": name} | {key: found._asdict() for key, found in times.items()})
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    print(f"targets: {TARGETS['more']:g} ms more; first answer of tiny_clip in {TARGETS['first']:g} s")
    found = timing.machine() | dict(method=chosen.method, rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("clip",))


def line(row: dict) -> list[str]:
    """Its cells."""
    tower, whole, first, imports = (row[key]["median"] for key in ("tower", "all", "first", "imports"))
    numbers = [f"{1e3 * seconds:.1f}" for seconds in (tower, whole, whole - tower)]
    return [row["clip"], *numbers, f"{first:.1f} ({imports:.1f})"]


if __name__ == "__main__":
    main()
