"""What a process of a peer does: it loads a model, says what it computes, and computes again when it is told to.

It runs where the peer is installed, and needs nothing but numpy beside it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import timing

Features = np.ndarray  # [b e], un-normalised


class Towers(NamedTuple):
    """A loaded model.

    Attributes:
        images: of pixels [b h w 3].
        texts: of whole sequences of ids [c n].
        prompts: of the same sequences of a CLIP, as fast as the library can: what stands behind the last end token
            may be left out, and what all have in common computed once.
    """

    images: Callable[[np.ndarray], Features]
    texts: Callable[[np.ndarray], Features]
    prompts: Callable[[np.ndarray], Features]


Load = Callable[[Path, str], Towers]  # of a folder or file, and the kind of the model: clip, siglip or siglip2


def longest(ids: np.ndarray) -> np.ndarray:
    """Up to the last end token, which is also what fills up."""
    return ids[:, : (ids != ids[0, -1]).sum(1).max() + 1]


def main(load: Load, read: Load | None = None) -> None:
    """`measure FOLDER KIND OUTPUT`, or `formats FOLDER`.

    Args:
        load: how the model that is timed is loaded.
        read: how the library itself reads files, if that is not the same.
    """
    command, folder, *others = sys.argv[1:]
    if command == "measure":
        kind, output = others
        measure(load, Path(folder), kind, Path(output))
    else:
        print(json.dumps({place.name: attempt(read or load, place) for place in sorted(Path(folder).iterdir())}))


def measure(load: Load, folder: Path, kind: str, output: Path) -> None:
    """Loads, keeps the features in `output`, says what loading and first calls took, and goes on as it is told."""
    given = np.load(folder / f"{kind}.npz")
    start = time.perf_counter()
    try:
        towers = load(folder / kind, kind)
    except Exception as error:  # whatever a library says
        return timing.serve({}, refused=reason(error))
    seconds = {"load": time.perf_counter() - start}
    works = {
        "images": lambda: towers.images(given["pixels"]),
        "texts": lambda: towers.texts(given["ids"]),
    }
    if kind == "clip":
        works["prompts"] = lambda: towers.prompts(given["ids"])
    features, refusals = {}, {}
    for name, work in works.items():
        start = time.perf_counter()
        try:
            features[name] = np.asarray(work())
        except Exception as error:
            refusals[name] = reason(error)
        else:
            seconds[name] = time.perf_counter() - start
    np.savez(output, **features)
    timing.serve(works, seconds=seconds, refusals=refusals)


def attempt(read: Load, place: Path) -> dict:
    """What comes of a model in some format: the greatest error of its features, or why it is refused."""
    given, archive = np.load(place / "expected.npz"), place / "model.pt"
    try:
        towers = read(archive if archive.exists() else place, str(given["kind"]))
        pairs = (towers.images(given["pixels"]), given["images"]), (towers.texts(given["ids"]), given["texts"])
        return {"error": max(relative_error(np.asarray(ours), theirs) for ours, theirs in pairs)}
    except Exception as error:
        return {"refused": reason(error).replace(f"{place.parent}/", "")}


def relative_error(found: Features, expected: Features) -> float:
    """The greatest difference, relative to the greatest value."""
    if found.shape != expected.shape:
        raise ValueError(f"features of shape {found.shape}, not {expected.shape}")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def reason(error: Exception) -> str:
    """Its first line, with its kind."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0].strip()[:160]}"
