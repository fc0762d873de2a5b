"""Requests per second of `pini serve` against the bare tower, its memory, and what hostile requests do to it.

    python -m benchmarks.serve
    python -m benchmarks.serve --clip=random --requests=1000

A server in a process of its own; `--at-once` clients of this process ask it for one image each, again and again.
The tower beside it is the image tower on batches of 32 decoded images, in this process, before the server starts;
of tiny_clip, or of a ViT-B/32 of random weights. `tower_ms`, `server_ms` and `clients_ms` are processor time for
each image: what the clients take is not there for the server. `growth` is of the server's resident memory after
the first tenth of the requests, and `load` that of the machine before the first one. With --save the line of JSON
is also kept in results/serve.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
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
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from benchmarks import inputs, random_clip, timing
from pini_jax import Classifier
from pini_jax.use import classifier
from pini_jax.use.classifier import TrainedClassifier

RESULT = Path(__file__).parent / "results" / "serve.json"
SECONDS = 5  # the server's limit
KIND = "multipart/form-data; boundary=x"
HEAD = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nContent-Length: %d\r\n\r\n".encode()


def random_vit(folder: Path) -> str:
    """Writes a ViT-B/32 of random weights; its folder."""
    random_clip.write(folder, inputs.VIT_B_32)
    return str(folder)


CLIPS: dict[str, Callable[[Path], str]] = {"tiny_clip": lambda _: "tiny_clip", "random": random_vit}


def form(picture: bytes) -> bytes:
    """The body of a request with one file."""
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return start + picture + b"\r\n--x--\r\n"


def png(size: tuple[int, int], shade: int = 128) -> bytes:
    """A grey picture."""
    file = io.BytesIO()
    Image.new("RGB", size, (shade,) * 3).save(file, "PNG")
    return file.getvalue()


def fit(folder: Path, clip: str) -> Path:
    """The injector of a classifier of ten classes, eight grey pictures each."""
    pictures = [np.full((64, 64, 3), 20 * (i % 10) + i // 10, np.uint8) for i in range(80)]
    fitted = Classifier(clip, method="tip_adapter", views=1).fit(pictures, [f"class {i % 10}" for i in range(80)])
    fitted.save(folder / "injector.safetensors")
    return folder / "injector.safetensors"


def tower_rate(trained: TrainedClassifier, repeats: int, size: int = 32) -> tuple[float, float]:
    """Images per second of the bare tower, so many at a time, and its milliseconds of processor time for each."""
    side = trained.towers.clip.preprocessing.crop
    images = trained.towers.clip.preprocessing.normalise(np.zeros((size, side, side, 3), np.uint8))
    jax.block_until_ready(trained.towers.encode(images))
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(trained.towers.encode(images))
    done = size * repeats
    return done / (time.perf_counter() - start), 1000 * (time.process_time() - processor) / done


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
    """Seconds of so many requests over one connection, by as little work as there can be."""
    request, seconds = HEAD % len(body) + body, []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(number):
            start = time.perf_counter()
            connection.sendall(request)
            answer = receive(connection)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            seconds.append(time.perf_counter() - start)
    return seconds


def receive(connection: socket.socket) -> bytes:
    """A response, as long as it says."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, content = answer.partition(b"\r\n\r\n")
    missing = int(re.findall(rb"(?i)content-length: (\d+)", head)[0]) - len(content)
    while missing > 0:
        content = connection.recv(missing)
        answer, missing = answer + content, missing - len(content)
    return answer


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


def cpu_seconds(pid: int) -> float:
    """Processor time of a process; not a number where the machine does not say."""
    file = timing.PROC / str(pid) / "stat"
    if not file.exists():
        return float("nan")
    user, system = file.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


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


class Asked(NamedTuple):
    """What one round of requests says."""

    rate: float
    seconds: list[float]
    server_ms: float
    clients_ms: float
    growth: int


def round_of(pid: int, port: int, requests: int, at_once: int) -> Asked:
    """Asks, and looks at both processes."""
    before, server, clients = resident(pid), cpu_seconds(pid), time.process_time()
    rate, seconds = ask_all(port, requests, at_once)
    milliseconds = [1000 * (cpu_seconds(pid) - server), 1000 * (time.process_time() - clients)]
    return Asked(rate, seconds, *(x / len(seconds) for x in milliseconds), resident(pid) - before)


def measure(clip: str, requests: int, hostile: int, at_once: int) -> dict[str, object]:
    """What the table says."""
    with tempfile.TemporaryDirectory() as folder:
        run = fit(Path(folder), CLIPS[clip](Path(folder)))
        tower, tower_ms = tower_rate(classifier.load_classifier(run), 20)
        load = os.getloadavg()[0]
        with serving(run) as (pid, port):
            round_of(pid, port, max(requests // 10, at_once), at_once)
            asked = round_of(pid, port, requests, at_once)
            slowest = attack_all(port, hostile, at_once) if hostile else {}
    quantiles = statistics.quantiles(asked.seconds, n=100)
    return {
        "clip": clip,
        "load": load,
        "tower": tower,
        "requests": asked.rate,
        "of_tower": asked.rate / tower,
        "p50_ms": 1000 * quantiles[49],
        "p99_ms": 1000 * quantiles[98],
        "tower_ms": tower_ms,
        "server_ms": asked.server_ms,
        "clients_ms": asked.clients_ms,
        "growth": asked.growth,
        "hostile": slowest,
    }


def main() -> None:
    """Prints the numbers, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", choices=CLIPS, default="tiny_clip")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--hostile", type=int, default=1_000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--save", action="store_true", help=f"keep the result in {RESULT.name}")
    chosen = parser.parse_args()
    found = measure(chosen.clip, chosen.requests, chosen.hostile, chosen.at_once)
    rows = [[name, f"{value:,.2f}"] for name, value in found.items() if isinstance(value, (int, float))]
    rows += [[f"slowest, {name}", f"{value:,.2f} s"] for name, value in dict(found["hostile"]).items()]
    print(timing.table(("of the server", "is"), rows))
    print(json.dumps(timing.machine("uvicorn", "starlette") | found))
    if chosen.save:
        timing.keep(RESULT, timing.machine("uvicorn", "starlette") | {"rows": [found]}, ("clip",))


if __name__ == "__main__":
    main()
