"""The relay's own HTTP/1.1 client: a pool of connections to one upstream.

A general client costs 150 to 3,000 us of CPU a request here; this one does only what a relay needs.
Invariant: a request is sent twice only when the first went to an idle connection that died without a byte of an answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.adapters.exchange import Connection, Exchange
from gateway.core.errors import UpstreamFailed, UpstreamTimeout

# How often answers are looked through for those that stand still.
WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class UpstreamTarget:
    """Where an upstream is, and how long to wait for it."""

    scheme: str
    host: str
    port: int
    path_prefix: str
    connect_timeout_s: float = 10.0
    headers_timeout_s: float = 600.0  # SDKs wait that long for the first byte
    read_timeout_s: float = 300.0
    idle_s: float = 55.0  # below the 60 s after which common servers close an idle connection
    pool_size: int = 256  # idle connections kept
    connections_most: int = 2_048

    @property
    def host_header(self) -> bytes:
        """The Host header: the port only where it is not the scheme's own."""
        usual = 443 if self.scheme == "https" else 80
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == usual else f"{host}:{self.port}").encode()


def target_of(base_url: str, **settings: float) -> UpstreamTarget:
    """Parse a base URL. Errors: ValueError when it is not http(s) with a host."""
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        message = f"not an http(s) URL: {base_url!r}"
        raise ValueError(message)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return UpstreamTarget(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), **settings)  # type: ignore[arg-type]


class UpstreamPool:
    """Connections to one upstream. Made inside a running loop; `close` ends all of them."""

    def __init__(self, target: UpstreamTarget, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._tls = (tls or ssl.create_default_context()) if target.scheme == "https" else None

    async def open(self, head: bytes, body: bytes, upload: AsyncIterator[bytes] | None = None) -> Exchange:
        """Send a request and wait for the answer's headers. `head` ends with the empty line; `upload` is sent after it,
        in the framing that the head names.

        Errors: UpstreamFailed, UpstreamTimeout. A request on a reused connection that the upstream closed without a
        byte of an answer is sent once more, on a new connection: such a connection was idle and died of old age.
        """
        connection = self._take_idle()
        if connection is not None:
            exchange = await self._exchange(connection, head, body, upload)
            if exchange.status:
                return exchange
            if exchange.touched or upload is not None:
                raise UpstreamFailed(exchange.failure or "no answer")
        exchange = await self._exchange(await self._connect(), head, body, upload)
        if not exchange.status:
            raise UpstreamFailed(exchange.failure or "no answer")
        return exchange

    async def _exchange(
        self, connection: Connection, head: bytes, body: bytes, upload: AsyncIterator[bytes] | None
    ) -> Exchange:
        exchange = connection.begin(head, body)
        timer = self.loop.call_later(self.target.headers_timeout_s, self._too_late, exchange)
        ready = exchange.ready
        try:
            if upload is not None:
                async for piece in upload:
                    if ready.done():  # an early refusal: the rest of the upload is not wanted
                        connection.reusable = False
                        break
                    await connection.write(piece)
            await ready
        except BaseException:
            exchange.abort()
            raise
        finally:
            timer.cancel()
        return exchange

    def _too_late(self, exchange: Exchange) -> None:
        exchange.abort()
        if not exchange.ready.done():
            exchange.ready.set_exception(
                UpstreamTimeout(
                    f"no answer from the upstream within {self.target.headers_timeout_s:g} s", code="upstream_timeout"
                )
            )

    def _take_idle(self) -> Connection | None:
        oldest = self.loop.time() - self.target.idle_s
        while self._idle:
            connection = self._idle.pop()
            transport = connection.transport
            if transport is None or transport.is_closing():
                continue
            if connection.idle_since < oldest:
                connection.close()
                continue
            return connection
        return None

    async def _connect(self) -> Connection:
        target = self.target
        if len(self._open) >= target.connections_most:
            raise UpstreamFailed("too many connections to this upstream", retry_after_s=1)
        try:
            async with asyncio.timeout(target.connect_timeout_s):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self), target.host, target.port, ssl=self._tls
                )
        except TimeoutError:
            raise UpstreamTimeout(f"no connection to the upstream within {target.connect_timeout_s:g} s") from None
        except OSError as error:
            raise UpstreamFailed(f"cannot connect to the upstream: {type(error).__name__}") from None
        self._open.add(connection)
        if self._watch is None:
            self._watch = self.loop.call_later(WATCH_S, self._give_up_silent)
        return connection

    def _give_up_silent(self) -> None:
        """No answer may stand still for ever, whoever reads it: a hold stands behind it."""
        oldest_s = self.loop.time() - self.target.read_timeout_s
        for connection in tuple(self._open):
            connection.give_up_if_silent_since(oldest_s)
        self._watch = self.loop.call_later(WATCH_S, self._give_up_silent) if self._open else None

    def give_back(self, connection: Connection) -> None:
        """An exchange is over and its connection can serve another."""
        connection.idle_since = self.loop.time()
        if len(self._idle) >= self.target.pool_size:
            connection.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)

    @property
    def open_connections(self) -> int:
        """How many sockets are open, idle ones included."""
        return len(self._open)

    def close(self) -> None:
        """Close every connection; exchanges that run fail."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()
