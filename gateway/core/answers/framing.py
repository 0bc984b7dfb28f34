"""Where one event of a stream ends and the next begins, for server-sent events and for lines of JSON."""

from __future__ import annotations

import re
from typing import Protocol

import msgspec

from gateway.core import sse
from gateway.core.answers.figures import Members, decoded

_LINE = re.compile(rb"[^\n]*\n?")


class Framing(Protocol):
    """How a stream is cut into events. `whole_ends`: a read that ends so ends between two events."""

    whole_ends: tuple[bytes, ...]
    overlap_bytes: int

    def last_boundary(self, data: bytes) -> int: ...
    def first_boundary(self, data: bytes) -> int: ...
    def split(self, data: bytes) -> list[bytes]: ...
    def payload(self, event: bytes) -> Members | None: ...


class EventFraming:
    """Server-sent events."""

    whole_ends: tuple[bytes, ...] = sse.WHOLE_ENDS
    overlap_bytes = sse.SEPARATOR_OVERLAP

    def last_boundary(self, data: bytes) -> int:
        """See `sse.last_boundary`."""
        return sse.last_boundary(data)

    def first_boundary(self, data: bytes) -> int:
        """See `sse.first_boundary`."""
        return sse.first_boundary(data)

    def split(self, data: bytes) -> list[bytes]:
        """See `sse.split`."""
        return sse.split(data)

    def payload(self, event: bytes) -> Members | None:
        """The JSON object that the event carries. The two usual forms (data alone, or behind a name) are decoded
        without looking at every line: if there are more lines, the strict decoder refuses what follows the
        object."""
        at = 0 if event.startswith(b"data: {") else event.find(b"\ndata: {") + 1 if event.startswith(b"event: ") else -1
        if at >= 0:
            try:
                found = msgspec.json.decode(event[at + 6 :])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                found = None
            if isinstance(found, dict):
                return found
        data = sse.data_of(event)
        return decoded(data) if data is not None and data.startswith(b"{") else None


class LineFraming:
    """One JSON object a line (NDJSON)."""

    whole_ends: tuple[bytes, ...] = (b"\n",)
    overlap_bytes = 0

    def last_boundary(self, data: bytes) -> int:
        """Behind the last line end."""
        return data.rfind(b"\n") + 1

    def first_boundary(self, data: bytes) -> int:
        """Behind the first line end."""
        return data.find(b"\n") + 1

    def split(self, data: bytes) -> list[bytes]:
        """Lines, each with its end."""
        return data.splitlines(keepends=True) if b"\r" not in data else [line for line in _LINE.findall(data) if line]

    def payload(self, event: bytes) -> Members | None:
        """The JSON object of the line."""
        return decoded(event)
