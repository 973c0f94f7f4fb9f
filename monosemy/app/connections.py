"""How long a visitor may take to ask, and how many connections there may be.

Place on the path: socket → [connection] → security → api. uvicorn waits for ever for the rest of a request that was
begun; here a request must have arrived whole `REQUEST_SECONDS` after the connection was made or the request began, else
the connection is closed. What is being answered has no limit: a steered answer takes as long as it takes.
Limits: built on uvicorn's h11 protocol, whose `conn` and `connections` are used as they are in 0.30 to 0.54.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0
MAX_CONNECTIONS = 128
"""More are closed at once; a browser opens six."""


class PromptProtocol(H11Protocol):
    """HTTP/1.1 with a deadline for requests."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):  # headers or body are incomplete
            self._expect_request()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
