"""One exchange with an upstream, and the socket that carries it.

Written for the relay's hot path: one write for head and body, a parser in C, and the body handed on from
`data_received` itself, joined so that what one read returned is one piece. Invariants: a connection serves one exchange
at a time and goes back to the pool only after the answer's last byte; an aborted exchange closes its connection at
once, so that the upstream stops working for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import httptools

from gateway.core.errors import UpstreamFailed
from gateway.ports import STALLED

Headers = list[tuple[bytes, bytes]]

# Above this much unread body an exchange stops reading the socket until the reader has caught up.
BUFFER_LIMIT_BYTES = 256 * 1024
# More headers than this, or longer ones, are an upstream gone wrong.
HEADERS_LIMIT_BYTES = 128 * 1024


class Pool(Protocol):
    """What a connection needs of its pool."""

    loop: asyncio.AbstractEventLoop

    def give_back(self, connection: Connection) -> None: ...
    def forget(self, connection: Connection) -> None: ...


class Exchange:
    """One request and its answer. `status` and `headers` are there once `UpstreamPool.open` returns."""

    __slots__ = (
        "_connection", "_wake", "buffered", "complete", "ended", "failure", "headers", "parts", "ready", "sink",
        "status", "touched",
    )  # fmt: skip

    def __init__(self, connection: Connection, ready: asyncio.Future[None]) -> None:
        self._connection = connection
        self.ready = ready
        self._wake: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: Headers = []
        self.parts: list[bytes] = []
        self.buffered = 0
        self.complete = False  # the whole answer was read
        self.failure: str | None = None  # why it will never be complete
        self.sink: Callable[[bytes], None] | None = None
        self.ended: Callable[[], None] | None = None
        self.touched = False  # a byte of the answer has come

    @property
    def over(self) -> bool:
        """No more body will come."""
        return self.complete or self.failure is not None

    async def read_up_to(self, limit_bytes: int) -> bytes | None:
        """The whole body if it is complete within `limit_bytes`, else None: the parts read so far stay for `stream`.

        Errors: UpstreamFailed when the answer breaks off before the limit.
        """
        while not self.over and self.buffered <= limit_bytes:
            await self._more()
        if self.buffered > limit_bytes:
            return None
        if self.failure is not None:
            raise UpstreamFailed(self.failure)
        parts, self.parts, self.buffered = self.parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _more(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        self._connection.resume()
        await self._wake

    def stream(self, sink: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """From now on hand every read to `sink` as it comes, then call `ended` once (see `complete`, `failure`)."""
        self.sink, self.ended = sink, ended
        parts, self.parts, self.buffered = self.parts, [], 0
        self.resume()  # before the sink is called: it may pause at the first piece
        if parts:
            sink(b"".join(parts))
        if self.over:
            self.sink = self.ended = None
            ended()

    def pause(self) -> None:
        """Stop reading the upstream's socket: back-pressure. Once the answer is over the socket serves another one."""
        if not self.over:
            self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        if not self.over:
            self._connection.resume()

    def abort(self) -> None:
        """Close the connection now, unless the answer is complete."""
        self.sink = self.ended = None
        if not self.over:
            self.failure = "aborted"
            self._connection.abort()

    # Called by the connection.

    def headers_done(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def take(self, data: bytes) -> None:
        if self.sink is not None:
            self.sink(data)
            return
        self.parts.append(data)
        self.buffered += len(data)
        if self.buffered > BUFFER_LIMIT_BYTES and self._wake is None:
            self._connection.pause()
        self._notify()

    def finish(self, failure: str | None) -> None:
        if self.over:
            return
        if failure is None:
            self.complete = True
        else:
            self.failure = failure
        if not self.ready.done():
            self.ready.set_result(None)
        self._notify()
        ended, self.sink, self.ended = self.ended, None, None
        if ended is not None:
            ended()

    def _notify(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)


class Connection(asyncio.Protocol):
    """One socket to an upstream."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.served = 0
        self.reusable = True  # False once an upload was broken off: the rest of it would be read as the next request
        self.idle_since = 0.0
        self.last_read = 0.0
        self._pieces: list[bytes] = []
        self._framed = False
        self._keep_alive = False
        self._message_done = False
        self._head_done = False
        self._bodiless = False
        self._headers_bytes = 0
        self._paused = False
        self._writable: asyncio.Future[None] | None = None

    # Transport callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # an answer nobody asked for
            self.close()
            return
        exchange.touched = True
        self.last_read = self.pool.loop.time()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._broken("the upstream's answer is not HTTP/1.1")
            return
        pieces = self._pieces
        if pieces:
            self._pieces = []
            exchange.take(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._message_done:
            self._done()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.forget(self)
        self.transport = None
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            unframed = exchange.status != 0 and not self._framed and exc is None
            exchange.finish(None if unframed else "the upstream closed the connection before the end of its answer")

    def pause_writing(self) -> None:
        self._writable = self.pool.loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # Parser callbacks.

    def on_message_begin(self) -> None:
        if self._message_done:  # a second answer to one request: it is nobody's, and what follows could be anybody's
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # a trailer, or the head of an answer that nobody asked for
            return
        self._headers_bytes += len(name) + len(value)
        if self._headers_bytes > HEADERS_LIMIT_BYTES:
            message = "headers too long"
            raise ValueError(message)
        name = name.lower()
        if name in {b"content-length", b"transfer-encoding"}:
            self._framed = True
        if self.exchange is not None:
            self.exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        exchange = self.exchange
        if self._head_done:
            return
        if exchange is None or status < 200:  # 100 Continue, 103 Early Hints: the real answer follows
            if exchange is not None:
                exchange.headers = []
            self._framed = False
            return
        exchange.status = status
        self._head_done = True
        if self._bodiless:  # the parser does not know, and would wait for a body
            self._message_done, self.reusable = True, False
        self._keep_alive = self.parser.should_keep_alive()  # asked later, the parser has forgotten
        exchange.headers_done()

    def on_body(self, body: bytes) -> None:
        if self._message_done:
            return
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self.exchange is not None and self.exchange.status:
            self._message_done = True

    # The exchange's life.

    def begin(self, head: bytes, body: bytes) -> Exchange:
        transport = self.transport
        if transport is None or transport.is_closing():
            message = "connection is closed"
            raise ConnectionError(message)
        if self.served:  # a fresh one: nothing that came after an answer may be read as the next
            self.parser = httptools.HttpResponseParser(self)
        self.served += 1
        self._framed = self._message_done = self._head_done = False
        self._bodiless = head.startswith(b"HEAD ")
        self._headers_bytes = 0
        self.last_read = self.pool.loop.time()
        exchange = self.exchange = Exchange(self, self.pool.loop.create_future())
        transport.write(head + body)
        return exchange

    async def write(self, data: bytes) -> None:
        """Write a piece of an upload and wait until the socket takes more."""
        if self.transport is None or self.transport.is_closing():
            message = "the upstream closed the connection during the upload"
            raise UpstreamFailed(message)
        self.transport.write(data)
        if self._writable is not None:
            await self._writable

    def _done(self) -> None:
        exchange, self.exchange = self.exchange, None
        self._message_done = False
        if self.reusable and self._keep_alive and self._framed_or_empty(exchange):
            self.resume()
            self.pool.give_back(self)
        else:
            self.close()
        if exchange is not None:
            exchange.finish(None)

    def _framed_or_empty(self, exchange: Exchange | None) -> bool:
        return self._framed or (exchange is not None and exchange.status in {204, 304})

    def _broken(self, why: str) -> None:
        exchange, self.exchange = self.exchange, None
        self.abort()
        if exchange is not None:
            exchange.finish(why)

    def give_up_if_silent_since(self, instant_s: float) -> None:
        """Break off an answer that has begun and of which nothing has come since. A paused one is ours to wait for."""
        exchange = self.exchange
        if exchange is not None and exchange.status and not self._paused and self.last_read < instant_s:
            self._broken(STALLED)

    def pause(self) -> None:
        if not self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = False
            self.last_read = self.pool.loop.time()
            self.transport.resume_reading()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        self.exchange = None
        if self.transport is not None:
            self.transport.abort()
