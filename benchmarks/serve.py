"""Requests per second of `pini serve` against the bare tower, its memory, and what hostile requests do to it.

    python -m benchmarks.serve

A server of tiny_clip in a process of its own; `--at-once` clients ask it for one image each, again and again. The
tower beside it is the image tower on batches of 32 decoded images, in this process, before the server starts.
`growth` is of the server's resident memory after the first tenth of the requests. With --save the line of JSON is
also kept in results/serve.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from benchmarks import timing
from pini_jax import Classifier
from pini_jax.use import classifier
from pini_jax.use.classifier import TrainedClassifier

RESULT = Path(__file__).parent / "results" / "serve.json"
SECONDS = 5  # the server's limit
KIND = "multipart/form-data; boundary=x"
HEAD = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nContent-Length: %d\r\n\r\n".encode()


def form(picture: bytes) -> bytes:
    """The body of a request with one file."""
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return start + picture + b"\r\n--x--\r\n"


def png(size: tuple[int, int]) -> bytes:
    """A grey picture."""
    file = io.BytesIO()
    Image.new("RGB", size, "grey").save(file, "PNG")
    return file.getvalue()


def fit(folder: Path) -> Path:
    """The injector of a classifier of ten classes, eight grey pictures each."""
    pictures = [np.full((64, 64, 3), 20 * (i % 10) + i // 10, np.uint8) for i in range(80)]
    fitted = Classifier("tiny_clip", method="tip_adapter", views=1).fit(
        pictures, [f"class {i % 10}" for i in range(80)]
    )
    fitted.save(folder / "injector.safetensors")
    return folder / "injector.safetensors"


def tower_rate(trained: TrainedClassifier, repeats: int) -> float:
    """Images per second of the bare tower, 32 at a time."""
    side = trained.towers.clip.preprocessing.crop
    images = trained.towers.clip.preprocessing.normalise(np.zeros((32, side, side, 3), np.uint8))
    jax.block_until_ready(trained.towers.encode(images))
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(trained.towers.encode(images))
    return 32 * repeats / (time.perf_counter() - start)


@contextlib.contextmanager
def serving(run: Path) -> Iterator[tuple[int, int]]:
    """The id and the port of a server's process, which is told to end and ends well."""
    words = ["serve", f"--workdir={run}", "--port=0", f"--seconds={SECONDS}"]
    with subprocess.Popen(
        [sys.executable, "-m", "pini_jax.cli", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline().rpartition(":")[2])
        process.terminate()
        assert process.wait() == 0


def ask(port: int, number: int, body: bytes) -> list[float]:
    """Seconds of so many requests over one connection."""
    connection, seconds = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(number):
        start = time.perf_counter()
        connection.request("POST", "/predict", body, {"Content-Type": KIND})
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        seconds.append(time.perf_counter() - start)
    connection.close()
    return seconds


def ask_all(port: int, requests: int, at_once: int) -> tuple[float, list[float]]:
    """Requests per second, and seconds of each."""
    body, start = form(png((64, 64))), time.perf_counter()
    with ThreadPoolExecutor(at_once) as clients:
        asked = [clients.submit(ask, port, requests // at_once, body) for _ in range(at_once)]
        seconds = [second for future in asked for second in future.result()]
    return len(seconds) / (time.perf_counter() - start), seconds


def resident(pid: int) -> int:
    """Bytes of a process; 0 where the machine does not say."""
    file = timing.PROC / str(pid) / "status"
    return int(re.findall(r"VmRSS:\s*(\d+) kB", file.read_text())[0]) * 1024 if file.exists() else 0


HOSTILE: dict[str, bytes] = {
    "no image": HEAD % len(form(b"no picture")) + form(b"no picture"),
    "too many pixels": HEAD % len(form(png((9000, 9000)))) + form(png((9000, 9000))),
    "too long": HEAD % 10**12,
    "cut body": HEAD % 10_000 + b"half",
    "cut headers": b"POST /predict HTTP/1.1\r\nHost:",
    "huge headers": b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
}


def attack(port: int, content: bytes) -> float:
    """Seconds until the server has closed the connection."""
    start = time.perf_counter()
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", port), timeout=10 * SECONDS) as connection,
    ):
        connection.sendall(content)
        while connection.recv(65536):
            pass
    return time.perf_counter() - start


def attack_all(port: int, number: int, at_once: int) -> dict[str, float]:
    """The most seconds of each kind; the server answers afterwards."""
    found: dict[str, float] = {}
    with ThreadPoolExecutor(at_once) as clients:
        for name, content in HOSTILE.items():
            one: Callable[[int], float] = lambda _, content=content: attack(port, content)  # noqa: E731
            found[name] = max(clients.map(one, range(-(-number // len(HOSTILE)))))
    ask(port, 1, form(png((64, 64))))
    return found


def measure(requests: int, hostile: int, at_once: int) -> dict[str, object]:
    """What the table says."""
    with tempfile.TemporaryDirectory() as folder:
        run = fit(Path(folder))
        tower = tower_rate(classifier.load_classifier(run), 20)
        with serving(run) as (pid, port):
            ask_all(port, max(requests // 10, at_once), at_once)
            before = resident(pid)
            rate, seconds = ask_all(port, requests, at_once)
            growth = resident(pid) - before
            slowest = attack_all(port, hostile, at_once) if hostile else {}
    quantiles = statistics.quantiles(seconds, n=100)
    times = {"p50_ms": 1000 * quantiles[49], "p99_ms": 1000 * quantiles[98]}
    return {
        "tower": tower,
        "requests": rate,
        "of_tower": rate / tower,
        **times,
        "growth": growth,
        "hostile": slowest,
    }


def main() -> None:
    """Prints the numbers, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--hostile", type=int, default=1_000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args()
    found = measure(chosen.requests, chosen.hostile, chosen.at_once)
    rows = [[name, f"{value:,.2f}"] for name, value in found.items() if isinstance(value, (int, float))]
    rows += [[f"slowest, {name}", f"{value:,.2f} s"] for name, value in dict(found["hostile"]).items()]
    print(timing.table(("of the server", "is"), rows))
    found = timing.machine("uvicorn", "starlette") | found
    print(json.dumps(found))
    if chosen.save:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
