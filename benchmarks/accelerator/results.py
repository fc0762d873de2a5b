"""The lines that a run writes, and where it keeps what goes with it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO
from unittest import mock

from benchmarks import timing
from benchmarks.accelerator.work import Row


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for all that is temporary, of this process and of those that it starts, caches of features too."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = mock.patch.dict(os.environ, TMPDIR=folder, XDG_CACHE_HOME=folder)
        with environment, mock.patch.object(tempfile, "tempdir", folder):
            yield Path(folder)


class Results:
    """A file of lines of JSON, which are printed too, by threads that may end the process."""

    def __init__(self, file: TextIO, scratch: Path):
        self._file, self._scratch, self._lock = file, scratch, threading.RLock()

    def write(self, row: Row) -> None:
        """As a line, with the process's age in seconds."""
        line = json.dumps(finite(row) | dict(at=round(timing.age(), 1)), allow_nan=False)
        with self._lock:
            print(line, file=self._file, flush=True)
            print(line, flush=True)

    def end(self, limit: float) -> NoReturn:
        """Says that the rest is left out, and ends: the device may be in the middle of anything."""
        with self._lock:
            self.write(dict(phase="end", left_out=f"all that comes after {limit:.0f} seconds"))
            shutil.rmtree(self._scratch, ignore_errors=True)
            os._exit(0)


def finite(value: Any) -> Any:
    """The same with words for what is no number, which JSON has none for."""
    if isinstance(value, dict):
        return {key: finite(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(x) for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
