"""Stopping on request: SIGTERM, SIGUSR1 or SIGINT let the step in flight end, and everything is saved.

A handler sets a flag; loops ask for it where they can stop, and raise `Stopped`, which ends the process with
status 42. A second signal ends it at once: what was saved stays. Nothing slow is imported here, so that a process
can listen from its first line.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from types import FrameType

STATUS = 42  # stopped on request with everything saved: run the same command again
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]

_request = threading.Event()
_questions = itertools.count(1)


class Stopped(BaseException):
    """Somebody asked for a stop, and everything is saved."""


def listen() -> None:
    """Takes the signals from now on; of no effect outside of the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _remember)


def _remember(number: int, frame: FrameType | None) -> None:
    if _request.is_set():
        os._exit(STATUS)
    _request.set()
    if _several_processes() and number != signal.SIGTERM:
        os.kill(os.getpid(), signal.SIGTERM)  # which JAX tells the other processes


def requested() -> bool:
    """Whether to stop now; where there are several processes, the same answer in all that ask as often."""
    if _several_processes():
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(next(_questions))
    return _request.is_set()


def raise_if_requested() -> None:
    """Raises Stopped if so."""
    if requested():
        raise Stopped


def _several_processes() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1
