"""Images per second and peak memory of `pini predict` on 1,000 and on 100,000 images, beside the bare tower.

    python -m benchmarks.predict

An archive of grey PNGs, 32 pixels square, goes through `pini predict` with tiny_clip into a .jsonl, in a process
of its own, which imports and loads too. The tower beside it is the image tower on batches of 64 decoded images, in
this process. `images` and `processor_ms`, processor time for each, are of what the larger archive has beyond the
smaller one, so that what starts a process does not count; `load` is that of the machine before the first.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks import serve, timing
from pini_jax.use import classifier


def write_archive(path: Path, number: int) -> None:
    """Grey pictures of 256 shades, one after another."""
    pictures = [serve.png((32, 32), shade) for shade in range(256)]
    with tarfile.open(path, "w") as archive:
        for i in range(number):
            member = tarfile.TarInfo(f"{i:06}.png")
            member.size = len(pictures[i % 256])
            archive.addfile(member, io.BytesIO(pictures[i % 256]))


def predict(run: Path, archive: Path) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of a process."""
    words = ["predict", f"--workdir={run}", str(archive), f"--output={archive.with_suffix('.jsonl')}"]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "from benchmarks import timing; from pini_jax import cli; cli.main(); print(timing.peak())"
    done = subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - start,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": int(done.stdout) / 1e6,
    }


def measure(numbers: tuple[int, int]) -> dict[str, float]:
    """What the table says."""
    few, many = numbers
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        run = serve.fit(Path(folder), "tiny_clip")
        tower, tower_ms = serve.tower_rate(classifier.load_classifier(run), 40, 64)
        found = {}
        for number in (few, few, many):  # the first one compiles
            archive = Path(folder, f"{number}.tar")
            write_archive(archive, number)
            found[number] = predict(run, archive)
            archive.with_suffix(".jsonl").unlink()
    less, more = found[few], found[many]
    return {
        "load": load,
        "tower": tower,
        "tower_ms": tower_ms,
        f"peak_mb of {few:,}": less["peak_mb"],
        f"peak_mb of {many:,}": more["peak_mb"],
        "images": (many - few) / (more["seconds"] - less["seconds"]),
        "processor_ms": 1000 * (more["processor"] - less["processor"]) / (many - few),
    }


def main() -> None:
    """Prints the numbers, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=100_000)
    chosen = parser.parse_args()
    found = measure((chosen.few, chosen.many))
    print(timing.table(("of predict", "is"), [[name, f"{value:,.2f}"] for name, value in found.items()]))
    print(json.dumps(timing.machine() | found))


if __name__ == "__main__":
    main()
