"""Requests whose head never ends: uvicorn's fast parser takes a head of any length, so what it keeps is bounded here.

Bytes are counted only while a head is under way, a read at a time: a head is refused once reads beyond the limit have
come, before it could fill the memory. Whoever is refused before there is a request gets the one body of all refusals,
and a moment to read it: a connection that is closed over unread bytes is reset, and the answer with it.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.core.errors import HeadTooLarge, MalformedRequest, Problem
from gateway.web.http_protocol import RelayProtocol
from gateway.web.problems import render_problem

LINGER_S = 1.0


def protocol_within(most_bytes: int) -> type[asyncio.Protocol]:
    """uvicorn's protocol, with heads of at most `most_bytes` (and what one read brings beyond)."""

    class LimitedProtocol(RelayProtocol):
        """One connection of a client."""

        _heading = True  # a head is awaited or under way
        _head_bytes = 0
        _refused = False

        def data_received(self, data: bytes) -> None:
            """Read on, unless the head has grown too long."""
            if self._refused:
                return
            under_way = self._heading
            super().data_received(data)
            if under_way and self._heading:
                self._head_bytes += len(data)
                if self._head_bytes > most_bytes and not self._refused:
                    self._refuse(HeadTooLarge(f"the head of the request is larger than {most_bytes} bytes"))

        def on_message_begin(self) -> None:
            """A head begins."""
            self._heading, self._head_bytes = True, 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            """The head is whole."""
            self._heading = False
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            """uvicorn's answer to what is no HTTP."""
            self._refuse(MalformedRequest(msg))

        def _refuse(self, problem: Problem) -> None:
            status, headers, body = render_problem(problem, headers=[(b"connection", b"close")])
            lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
            self._refused = True
            self.loop.call_later(LINGER_S, self.transport.close)

    return LimitedProtocol
