"""Connections: a client has little time to say what it wants, and one that says nothing makes room for others."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 10.0  # from a connection, or an answer, to the headers of the next request
ENDING_S = 1.0  # the same when the service ends: a request may be under way
MOST = 500  # at a time


class Connection(H11Protocol):
    """A connection as uvicorn has it, which waits for requests no longer than it must."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._is_ending = False
        self._waits_since = 0.0
        self._waiting: asyncio.TimerHandle | None = None  # for a request; None: there is one

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin. Where there are too many, the one that has waited for a request longest is closed."""
        super().connection_made(transport)
        # An answer is several writes. asyncio sees to it only for sockets that were made for TCP by that name.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait(REQUEST_S)
        if len(self.connections) > MOST:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each._waiting]
            min(waiting, key=lambda each: each._waits_since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        before = self.cycle
        super().data_received(data)
        self._note_request(before)

    def on_response_complete(self) -> None:
        """Wait for the next request. What still comes of this one is read till then: the answer is seen."""
        before = self.cycle
        self._wait(REQUEST_S)
        super().on_response_complete()
        self._note_request(before)

    def shutdown(self) -> None:
        """Take no further request than the one that is there, or is coming now."""
        if self._waiting:
            self._is_ending = True
            self._wait(ENDING_S)
        else:
            super().shutdown()

    def _note_request(self, before: object) -> None:
        """Stop to wait if there is another request than before."""
        if self.cycle is before:
            return
        self._stop_waiting()
        if self._is_ending:
            self.cycle.keep_alive = False

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._waits_since = self.loop.time()
        self._waiting = self.loop.call_later(seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None
