"""The other processes of a job: joining them, stopping where they stop, and seeing that one of them is gone."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax._src.distributed import global_state  # its client has no public name, and Orbax takes it from here too

from pini_jax.core import stop
from pini_jax.core.errors import InputError, last_line
from pini_jax.core.wording import listed

WAIT = 1800  # seconds until all have come: JAX's 300 are too few for a cold start of many hosts
SILENCE = 30  # seconds without a sign of life, after which JAX takes a process for dead
PATIENCE = 20  # seconds that a process which is to stop waits for others, which then stop too
PERIOD = 1.0  # seconds between two looks whether a process was asked to stop
LOG = logging.getLogger(__name__)
_peers: list[Peer] = []
_kept: list[Any] = []  # what C holds on to


# ------------------------------------------------------------------------------------------------ joining


def join() -> None:
    """Joins the other processes of this job, which run the same command, before anything is computed.

    On clusters that JAX knows (Cloud TPU pods, SLURM, Open MPI, Kubernetes) it asks them who is who. Elsewhere the
    environment says it: JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
        InputError: it says nothing.
    """
    # Orbax would ask that service too, by the steps of its checkpoints, and then our own questions go unheard.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        number, count = _number("JAX_PROCESS_ID"), _number("JAX_NUM_PROCESSES")
        awaited = _awaited(number, count)
        LOG.info("waiting for %s, at most %d seconds", awaited, WAIT)
        _when_aborted(lambda: f"error: the processes of this job could not be joined: not all of {awaited} came")
        with stop.waits_for_others(PATIENCE):
            jax.distributed.initialize(
                num_processes=count,
                process_id=number,
                initialization_timeout=WAIT,
                heartbeat_timeout_seconds=SILENCE,
            )
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the processes of this job could not be joined ({last_line(error)})") from None
    if global_state.process_id:
        logging.getLogger("pini_jax").setLevel(logging.WARNING)  # the first process speaks for all
    _peers[:] = _meet()
    _when_aborted(lambda: _loss() or "error: JAX has ended this process, for the reason above")
    stop.answer_by(Agreement(_client(), global_state.process_id, global_state.num_processes))


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    return None if value is None else int(value)


def _client() -> Any:
    """Of JAX's service of keys, values and barriers for the processes of a job."""
    return global_state.client


def _awaited(number: int | None, count: int | None) -> str:
    """Whom a process waits for, as far as the environment says."""
    if number is None or count is None:
        return "the other processes of this job"
    if number:
        return f"process 0 at {os.environ.get('JAX_COORDINATOR_ADDRESS')} and all others of {count}"
    return f"processes {listed(map(str, range(1, count)))}"


# ------------------------------------------------------------------------------------------------ one is gone


class Peer(NamedTuple):
    """Another process, and where it listens as long as it lives; nobody needs to answer there."""

    number: int
    host: str
    address: tuple[str, int]

    @property
    def lives(self) -> bool:
        """Whether its system takes a connection."""
        with contextlib.suppress(OSError), socket.create_connection(self.address, timeout=5):
            return True
        return False

    def __str__(self) -> str:
        return f"process {self.number} on {self.host}"


def _meet() -> list[Peer]:
    """Opens a port, and learns those of the others."""
    client, number = _client(), global_state.process_id
    host, _, port = str(global_state.coordinator_address).rpartition(":")
    coordinator = host.strip("[]"), int(port)
    family, kind, _, _, target = socket.getaddrinfo(*coordinator, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(target)  # sends nothing, and says by which address others see this host
        own = probe.getsockname()[0]
    server = socket.create_server((own, 0), family=family)
    _kept.append(server)
    client.key_value_set(f"pini_jax/peers/{number}", f"{socket.gethostname()} {own} {server.getsockname()[1]}")
    client.wait_at_barrier("pini_jax/peers", WAIT * 1000)
    entries = client.key_value_dir_get("pini_jax/peers/")
    said = {int(key.rpartition("/")[2]): value.split() for key, value in entries}
    # A host may know its own name by an address that is of use to nobody else.
    addresses = {i: (address, int(port)) for i, (_, address, port) in said.items()} | {0: coordinator}
    return [Peer(i, said[i][0], addresses[i]) for i in sorted(said) if i != number]


def _loss() -> str:
    """A line that names those who are gone; empty if all live."""
    gone = listed(str(peer) for peer in _peers if not peer.lives)
    end = "is gone, and this one ends: the same command in all processes goes on from the last checkpoint"
    return f"error: {gone} {end}" if gone else ""


def end_if_one_is_gone() -> None:
    """Ends this process with a line, if another one's end may be the cause of an error."""
    for _ in range(10 if _peers else 0):
        if line := _loss():
            stop.end(line, 1)
        time.sleep(0.3)  # a killed process closes one connection after the other


def fail(line: str) -> None:
    """Ends this process with a line and status 1; of several, without waiting for those that go on."""
    if _peers:
        _when_aborted(lambda: "")
        os.write(2, f"{line}\n".encode())
        with contextlib.suppress(Exception):  # who fails alike says so first
            _client().wait_at_barrier("pini_jax/failed", 5000)
        os._exit(1)


def _when_aborted(line: Callable[[], str]) -> None:
    """What to say where JAX aborts the process, as it does when it has lost another one; the status is 1."""
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: stop.end(line(), 1))
    _kept.append(handler)
    # One of Python's own would run after the end.
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


# ------------------------------------------------------------------------------------------- stopping together


class Agreement:
    """Finds the question at which all processes stop: one that none of them has asked yet.

    Once a process is asked to stop, all say how many questions they have asked, and none asks another one before
    all have said it; the answer to the one after the highest number is yes.
    """

    REQUESTS, NUMBERS = "pini_jax/stop_requests/", "pini_jax/stop_numbers/"

    def __init__(self, client: Any, number: int, count: int, asked: threading.Event = stop.asked):
        self._client, self._number, self._count, self._asked = client, number, count, asked
        self._questions, self._last = 0, -1
        self._lock = threading.Lock()
        threading.Thread(target=self._agree, name="agreement").start()

    def __call__(self) -> bool:
        """The answer to the next question."""
        with self._lock:
            self._questions += 1
            return self._questions == self._last

    def _agree(self) -> None:
        with contextlib.suppress(Exception):  # of the connection: the job is over
            # No daemon, which might be in the middle of a call when the interpreter ends.
            while not (requested := self._requested()) and threading.main_thread().is_alive():
                self._asked.wait(PERIOD)
            with self._lock:
                # Who has come to its end says so too, lest others wait for it.
                self._client.key_value_set(f"{self.NUMBERS}{self._number}", str(self._questions))
                while requested and len(numbers := self._read(self.NUMBERS)) < self._count:
                    time.sleep(0.05)
                if requested:
                    self._last = 1 + max(map(int, numbers))

    def _requested(self) -> bool:
        """Whether any process was asked."""
        if self._asked.is_set():
            self._client.key_value_set(f"{self.REQUESTS}{self._number}", "stop", allow_overwrite=True)
        return self._asked.is_set() or bool(self._read(self.REQUESTS))

    def _read(self, folder: str) -> list[str]:
        return [value for _, value in self._client.key_value_dir_get(folder)]
