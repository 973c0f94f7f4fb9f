"""Limits how long a request may take to arrive, and how many connections there may be.

Place on the path: socket → [connection] → security → api. uvicorn itself waits for ever for the rest of a request. Here
the whole request must have arrived `REQUEST_SECONDS` after the connection was made or the request began, or the
connection is closed. Answers have no time limit, since a steered text takes as long as it takes.
Limits: built on uvicorn's h11 protocol, whose `conn` and `connections` are used as they are in 0.30 to 0.54.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0
MAX_CONNECTIONS = 128
"""Connections beyond this number are closed at once; a browser opens six."""


class PromptProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a deadline by which a request must have arrived."""

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
        # a running deadline is not extended: a client that sends a byte now and then must not hold the connection
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
