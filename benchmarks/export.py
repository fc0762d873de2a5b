"""How large exported files are, and how fast they answer, beside the run itself: python -m benchmarks.export.

Of tiny_clip and of a ViT-B/32 of random weights: a run of ten classes with noise at the classes' texts, which can
be written in every form. `first answer` is a process from its start, imports included, to the answer for one
image; `predict` finds its compiled programs in the cache there, and StableHLO is compiled anew. Then the processes
answer for one image and for 32, by turns. `predict` is given uint8 pictures of the CLIP's size and programs are
given normalised pixels; embeddings are given the image features of a CLIP that runs already, so that their numbers
are without the tower. Medians. With --save the line of JSON is also kept in results/export.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.timing import Worker

# What else is not of the standard library is imported where it is needed: imports are a part of what is measured.

RESULT = Path(__file__).parent / "results" / "export.json"
COLUMNS = ("CLIP", "", "file, MB", "first answer, s", "one image, ms", "32 images, ms")
BATCHES = (1, 32)
NOISE = {"text_features": {"generator": "table"}}
Answer = Callable[[int], np.ndarray]  # probabilities of so many black images


def write(folder: Path, clip: str) -> None:
    """A run, and a file of every form."""
    from pini_jax import Classifier
    from pini_jax.use import export

    pictures = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(10)]
    classifier = Classifier(clip, noise=NOISE, views=1, optim={"epochs": 1})
    classifier.fit(pictures, [f"class {i}" for i in range(10)]).save(folder / "predict")
    trained = export.load(folder / "predict", clip)
    (folder / "predict.json").write_text(json.dumps({"side": trained.towers.clip.preprocessing.crop}))
    for form in export.FORMS:
        export.write(trained, form, folder / form)


# ------------------------------------------------------------------------------------------------ the processes


def predict(path: Path) -> Answer:
    """The run itself, as `pini predict` has it."""
    from pini_jax.core import runtime
    from pini_jax.use import classifier

    runtime.keep_programs()
    side, trained = beside(path)["side"], classifier.load_classifier(path)
    return lambda number: trained(np.zeros((number, side, side, 3), np.uint8))


def stablehlo(path: Path) -> Answer:
    """In JAX."""
    from jax import export

    program, how = export.deserialize(bytearray(path.read_bytes())), beside(path)["preprocessing"]
    return lambda number: np.asarray(program.call(black(how, number)))


def onnx(path: Path) -> Answer:
    """In ONNX Runtime."""
    import onnxruntime

    session, how = onnxruntime.InferenceSession(path), beside(path)["preprocessing"]
    return lambda number: session.run(["probabilities"], {"pixels": black(how, number)})[0]


def embeddings(path: Path) -> Answer:
    """In NumPy, of any features."""
    from safetensors.numpy import load_file

    found = load_file(path)
    scale = found["logit_scale"] / (beside(path)["doubt"] or {"temperature": 1})["temperature"]

    def answer(number: int) -> np.ndarray:
        features = np.ones((number, found["embeddings"].shape[1]), np.float32)
        unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
        odds = np.exp(scale * (unit @ found["embeddings"].T))
        return odds / odds.sum(-1, keepdims=True)

    return answer


FORMS = {"predict": predict, "stablehlo": stablehlo, "onnx": onnx, "embeddings": embeddings}


def beside(path: Path) -> dict[str, Any]:
    """What is said of a file."""
    return json.loads(path.with_name(f"{path.name}.json").read_text())


def black(how: dict[str, Any], number: int) -> np.ndarray:
    """Normalised pixels of black images."""
    pixel = -np.float32(how["mean"]) / np.float32(how["std"])
    return np.broadcast_to(pixel, (number, how["crop"], how["crop"], 3))


def serve(form: str, path: Path) -> None:
    """Says that it has answered for one image, then answers as often as it is asked."""
    answer = FORMS[form](path)
    answer(1)
    timing.serve({str(number): functools.partial(answer, number) for number in BATCHES})


# ------------------------------------------------------------------------------------------------ their parent


def started(form: str, path: Path) -> tuple[Worker, float]:
    """A process that has answered once, and how long that took."""
    start = time.perf_counter()
    return Worker("benchmarks.export", "--serve", form, str(path)), time.perf_counter() - start


def measure(folder: Path, forms: Sequence[str], processes: int, repeats: int) -> list[dict]:
    """A row for every form: bytes and seconds."""
    first = defaultdict(list)
    for _ in range(processes):
        for form in forms:
            worker, seconds = started(form, folder / form)
            with worker:
                first[form].append(seconds)
    with ExitStack() as stack:
        workers = {form: stack.enter_context(started(form, folder / form)[0]) for form in forms}
        tasks = {(form, number): (workers[form], str(number)) for form in forms for number in BATCHES}
        timing.in_turn(tasks, 2)  # compiles
        warm = timing.in_turn(tasks, repeats)
    return [
        {
            "form": form,
            "bytes": (folder / form).stat().st_size,
            "first": timing.summarise(first[form])._asdict(),
            **{str(number): warm[form, number]._asdict() for number in BATCHES},
        }
        for form in forms
    ]


def line(row: dict) -> list[str]:
    """Its cells."""
    warm = [f"{1e3 * row[str(number)]['median']:.2f}" for number in BATCHES]
    return [row["clip"], row["form"], f"{row['bytes'] / 1e6:.2f}", f"{row['first']['median']:.1f}", *warm]


def main() -> None:
    """Prints the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # what the processes do
    chosen = parser.parse_args()
    if chosen.serve:
        return serve(chosen.serve[0], Path(chosen.serve[1]))
    from benchmarks import latency

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, clip in latency.clips(Path(temporary)).items():
            folder = Path(tempfile.mkdtemp(dir=temporary))
            write(folder, clip)
            rows += [{"clip": name} | row for row in measure(folder, [*FORMS], chosen.processes, chosen.repeats)]
    print(timing.table(COLUMNS, [line(row) for row in rows]))
    found = timing.machine("onnxruntime") | dict(rows=rows)
    print(json.dumps(found))
    if chosen.save:
        timing.keep(RESULT, found, ("clip", "form"))


if __name__ == "__main__":
    main()
