"""uvicorn as it is needed here: a bound on slow senders, and an end that answers what was begun."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT") if hasattr(signal, name)]
CONNECTIONS = 1024


def bound_headers(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which ends a connection whose headers do not arrive in so many seconds."""

    class BoundedProtocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Begins to wait where headers are not whole, and ends where they are."""
            if self.conn.their_state is not h11.IDLE:
                self._forget()
            elif self._late is None:
                self._late = self.loop.call_later(seconds, self.transport.close)

        def _forget(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return BoundedProtocol


def serve(app: Starlette, address: socket.socket, seconds: float) -> None:
    """Answers until SIGTERM or SIGINT; then takes nothing new, and ends what was begun."""
    settings = uvicorn.Config(
        app,
        http=bound_headers(seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(2 * seconds) + 1,  # to arrive, and to be answered
    )
    server = uvicorn.Server(settings)
    # uvicorn would end by the signal that it was sent, and not with status 0.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    with _taken(SIGNALS, server.handle_exit):
        asyncio.run(server.serve(sockets=[address]))


@contextlib.contextmanager
def _taken(signals: list[signal.Signals], handler: Callable[..., None]) -> Any:
    """Within, the signals go to the handler."""
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
