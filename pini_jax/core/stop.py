"""Stopping on request: SIGTERM, SIGUSR1 or SIGINT let the steps in flight end, and everything is saved.

Loops ask where they can stop, and raise `Stopped`, which ends the process with status 42. A second signal ends it
at once: what was saved stays. A thread of its own counts the signals, so that neither is late while the main one
compiles. Nothing slow is imported here, so that a process can listen from its first line.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

STATUS = 42  # stopped on request with everything saved: run the same command again
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
ECHO = 0.25  # seconds: `timeout` and other launchers send the same signal to a process and to its group

asked = threading.Event()  # this process, by a signal
_answer: Callable[[], bool] = asked.is_set


SAVED = "everything is saved, and the same command goes on from there"


class Stopped(BaseException):
    """A stop was requested; everything is saved unless the message says otherwise."""


def listen() -> None:
    """Handles the stop signals from now on; has no effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    # The interpreter writes at once, and calls handlers only between two lines of the main thread.
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    atexit.register(_ignore)
    threading.Thread(target=_count, args=(reading, writing), name="signals", daemon=True).start()


def _ignore() -> None:
    """At the end all is done: an interpreter that ends would let a signal kill it, as if it had failed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _count(reading: socket.socket, writing: socket.socket) -> None:
    """Remembers the first signal, and ends the process at the second."""
    first = 0.0
    while True:
        if not set(reading.recv(64)) & set(SIGNALS):
            continue
        if not asked.is_set():
            first = time.monotonic()
            asked.set()
        elif time.monotonic() - first > ECHO:
            end("stopped at once: what was saved before is whole, and the same command goes on from there", STATUS)


def end(line: str, status: int) -> None:
    """Ends the process with a line on stderr, whatever its threads wait for."""
    os.write(2, f"{line}\n".encode())
    os._exit(status)


@contextlib.contextmanager
def waits_for_others(seconds: float) -> Iterator[None]:
    """A block in which nothing is to be saved: a signal ends the process unless the block ends soon after it."""
    over = threading.Event()

    def wait() -> None:
        asked.wait()
        if not over.wait(seconds):
            end("stopped: nothing was begun", STATUS)

    threading.Thread(target=wait, name="waiting", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def answer_by(agreement: Callable[[], bool]) -> None:
    """Sets who decides about stopping when several processes must stop together."""
    global _answer
    _answer = agreement


def requested() -> bool:
    """Whether to stop now; with several processes, the same answer in all, which must ask equally often."""
    return _answer()


def raise_if_requested() -> None:
    """Raises Stopped if a stop was requested."""
    if requested():
        raise Stopped
