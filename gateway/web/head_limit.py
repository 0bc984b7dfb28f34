"""Requests whose head never ends: uvicorn's fast parser takes a head of any length, so what it keeps is bounded here.

Bytes are counted only while a head is under way, a read at a time: a head is refused once reads beyond the limit have
come, before it could fill the memory.
"""

from __future__ import annotations

import asyncio

from gateway.web.http_protocol import RelayProtocol


def protocol_within(most_bytes: int) -> type[asyncio.Protocol]:
    """uvicorn's protocol, with heads of at most `most_bytes` (and what one read brings beyond)."""

    class LimitedProtocol(RelayProtocol):
        """One connection of a client."""

        _heading = True  # a head is awaited or under way
        _head_bytes = 0

        def data_received(self, data: bytes) -> None:
            """Read on, unless the head has grown too long."""
            under_way = self._heading
            super().data_received(data)
            if under_way and self._heading:
                self._head_bytes += len(data)
                if self._head_bytes > most_bytes and not self.transport.is_closing():
                    self.send_400_response("The head of the request is too long.")

        def on_message_begin(self) -> None:
            """A head begins."""
            self._heading, self._head_bytes = True, 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            """The head is whole."""
            self._heading = False
            super().on_headers_complete()

    return LimitedProtocol
