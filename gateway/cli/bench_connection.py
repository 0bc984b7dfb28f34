"""One connection of the load: writes a prepared request, finds the end of the answer, says how long it took."""

from __future__ import annotations

import asyncio
import re
from time import perf_counter

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
# The end of an answer is looked for in what came last; a good answer's mark stands there too.
_TAIL_BYTES = 1_024
_NO_FAILURE = ""


class Tally:
    """What all connections of a load have seen since the last `reset`. `once`: no connection asks a second time."""

    def __init__(self, expect_status: int, needle: bytes) -> None:
        self.expect_status = b"%d" % expect_status
        self.needle = needle
        self.once = False
        self.stopped = False
        self.begun = 0
        self.failed = 0
        self.failure = _NO_FAILURE
        self.requests = 0
        self.body_bytes = 0
        self.latencies: list[float] = []
        self._most = 0
        self.enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def reset(self, requests_most: int) -> None:
        """Begin to count anew. `enough` is set after so many requests. Failures are never forgotten."""
        self.requests, self.body_bytes, self.latencies = 0, 0, []
        self._most = requests_most
        self.enough = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """No connection asks again."""
        self.stopped = True

    def done(self, took_s: float) -> None:
        """One good answer."""
        self.requests += 1
        self.latencies.append(took_s)
        if self.requests == self._most and not self.enough.done():
            self.enough.set_result(None)

    def fail(self, why: str) -> None:
        """One bad answer."""
        self.failed += 1
        self.failure = self.failure or why


class Connection(asyncio.Protocol):
    """`busy`: an answer is awaited."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request = request
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._asked_at = 0.0
        self._left = 0  # bytes of the body that are still to come; below zero: chunked
        self._head = b""
        self._tail = b""
        self._in_body = False
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self.busy = False
            self._tally.fail(f"the connection was lost: {error!r}")

    def close(self) -> None:
        """Hang up."""
        self.busy = False
        if self._transport is not None:
            self._transport.abort()

    def ask(self) -> None:
        """Send the request."""
        if self._transport is None:
            self._tally.fail("the connection is closed")
            return
        self.busy, self._in_body, self._head, self._tail = True, False, b"", b""
        self._asked_at = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            data = self._read_head(data)
            if not self._in_body:
                return
        self._tally.body_bytes += len(data)
        if self._left >= 0:
            self._left -= len(data)
            self._tail += data
            if self._left <= 0:
                self._answered()
            return
        self._tail = data[-_TAIL_BYTES:] if len(data) >= _TAIL_BYTES else (self._tail + data)[-_TAIL_BYTES:]
        if self._tail.endswith(_LAST_CHUNK):
            self._answered()

    def _read_head(self, data: bytes) -> bytes:
        """What comes after the head, once there is a whole one."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return b""
        head, body = self._head[: end + 4], self._head[end + 4 :]
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else -1
        self._in_body = True
        self._head = head
        self._tally.begun += 1
        if length is None and _CHUNKED.search(head) is None:
            self._left = 0
            self._tally.fail("an answer without length")
        return body

    def _answered(self) -> None:
        took_s = perf_counter() - self._asked_at
        self.busy = False
        tally = self._tally
        if self._head[9:12] != tally.expect_status or (tally.needle and tally.needle not in self._tail):
            tally.fail(f"{self._head[:40]!r} ... {self._tail[-200:]!r}")
            return  # asking again would only repeat it
        tally.done(took_s)
        if not (tally.once or tally.stopped):
            self.ask()
