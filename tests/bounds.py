"""What a piece of a program may take: memory, and time of the processor, which other processes cannot use up."""

import contextlib
import ctypes
import gc
import re
import resource
import signal
import time
from pathlib import Path

import pytest


def resident(line):
    """Of this process, in bytes: VmRSS now, VmHWM at most since `forget_peak`, VmSize with what it never used."""
    return int(re.search(rf"{line}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def forget_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("only Linux tells the greatest memory of a part of a process")


def trim():
    """Gives back what is free: else what others have freed is there to be used again."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def bounded(memory=1 << 30, seconds=10):
    """Fails where what is within takes more; what would take far more is stopped."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} seconds")

    forget_peak()
    before, start = resident("VmRSS"), time.process_time()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (resident("VmSize") + 4 * memory, hard))
    handler = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.process_time() - start < seconds
    assert resident("VmHWM") - before < memory
