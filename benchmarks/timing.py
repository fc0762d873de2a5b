"""How long work takes, in processes that take turns, how much memory each of them had, and on what machine."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Work = Callable[[], object]  # ends when its result is there

SHARE = 0.9  # of the memory that is available, what a process may take
PROC = Path("/proc")
ANSWERS = "BENCHMARK_ANSWERS"  # the file descriptor where a process that takes turns answers
IMPORTED = time.monotonic()
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes that take turns share a GPU


class Times(NamedTuple):
    """Seconds of one piece of work."""

    median: float
    lowest: float
    highest: float


def summarise(seconds: Sequence[float]) -> Times:
    """The median, and the spread."""
    return Times(statistics.median(seconds), min(seconds), max(seconds))


class Cost(NamedTuple):
    """Seconds of a process, and of all cores while it ran."""

    wall: float
    cpu: float


def cost(command: Sequence[str]) -> Cost:
    """Of a command, from its start to its end.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is within.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def peak() -> int:
    """The greatest resident memory of this process so far, in bytes."""
    if PROC.exists():  # getrusage also counts the process that this one was before it ran Python
        return _kilobytes("self/status", "VmHWM") * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


def age() -> float:
    """Seconds since this process began, or where the system does not say that, since this module was imported."""
    if not PROC.exists():
        return time.monotonic() - IMPORTED
    # The name, in brackets, may hold blanks; the 22nd number is the start, in ticks since the machine's.
    start = (PROC / "self/stat").read_text().rpartition(")")[2].split()[19]
    since_boot = (PROC / "uptime").read_text().split()[0]
    return float(since_boot) - int(start) / os.sysconf("SC_CLK_TCK")


def limit_memory() -> None:
    """Lets this process take most of what the machine has left: an allocation beyond fails, and harms no other."""
    if PROC.exists():
        limit = int(SHARE * _kilobytes("meminfo", "MemAvailable") * 1024)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def memory_limit() -> int:
    """The bytes that it may take."""
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def _kilobytes(file: str, name: str) -> int:
    return int(re.findall(rf"{name}:\s*(\d+) kB", (PROC / file).read_text())[0])


# ------------------------------------------------------------------------------------------------ taking turns


def serve(works: Mapping[str, Work], **said: object) -> None:
    """Tells the parent that all is ready, then does the work that it names, line by line, and tells how it was."""
    with os.fdopen(int(os.environ[ANSWERS]), "w") as parent:
        print(json.dumps(said), file=parent, flush=True)
        for line in sys.stdin:
            start = time.perf_counter()
            works[line.strip()]()
            print(json.dumps([time.perf_counter() - start, peak() / 1e6]), file=parent, flush=True)


class Worker:
    """A process that works when it is told to, and otherwise waits.

    Attributes:
        said: what it had to say when it was ready.
        peak_mb: its greatest resident memory so far.
    """

    def __init__(self, module: str, *arguments: str, python: str = sys.executable):
        answers, theirs = os.pipe()  # not their stdout, where any library may print
        command, environment = [python, "-m", module, *arguments], os.environ | {ANSWERS: str(theirs)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=2, text=True, pass_fds=[theirs], env=environment
        )
        os.close(theirs)
        self._answers = os.fdopen(answers)
        self.said: dict = self._answer()
        self.peak_mb = 0.0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._answers.close()

    def _answer(self):
        if line := self._answers.readline():
            return json.loads(line)
        raise self._ended()

    def _ended(self) -> ChildProcessError:
        return ChildProcessError(f"{' '.join(self._process.args)} ended with {self._process.wait()}")

    def seconds(self, work: str) -> float:
        """What the work takes, once.

        Raises:
            ChildProcessError: it has ended.
        """
        try:
            self._process.stdin.write(work + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        seconds, self.peak_mb = self._answer()
        return seconds


def in_turn(tasks: Mapping[str, tuple[Worker, str]], repeats: int) -> dict[str, Times]:
    """The tasks one after another, again and again, so that a drift of the machine meets all of them.

    Workers have warmed up before they say that they are ready.
    """
    rounds = [{name: worker.seconds(work) for name, (worker, work) in tasks.items()} for _ in range(repeats)]
    return {name: summarise([taken[name] for taken in rounds]) for name in tasks}


# ------------------------------------------------------------------------------------------------ results


def machine(*packages: str) -> dict:
    """Device, processor and versions; `packages` are named besides those of every result."""
    import importlib.metadata

    from pini_jax.runs import provenance  # with JAX, which a process of PyTorch does without

    versions = provenance.versions() | {name: importlib.metadata.version(name) for name in packages}
    return dict(device=provenance.device(), processor=processor(), cores=os.cpu_count(), versions=versions)


def processor() -> str:
    """As the system names it."""
    found = re.findall(r"model name\s*: (.*)", (PROC / "cpuinfo").read_text()) if PROC.exists() else []
    return found[0] if found else platform.processor()


def keep(path: Path, found: Mapping, keys: Sequence[str]) -> None:
    """Writes {..., "rows": [...]}; of an earlier result of the same machine, rows that are not among them stay."""

    def key(row: Mapping) -> list:
        return [row[name] for name in keys]

    before = json.loads(path.read_text()) if path.exists() else {}
    same = {**before, "rows": None} == {**found, "rows": None}
    new = [key(row) for row in found["rows"]]
    stay = [row for row in before["rows"] if key(row) not in new] if same else []
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**found, "rows": sorted([*stay, *found["rows"]], key=key)}, indent=1) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all but the first column are aligned to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
