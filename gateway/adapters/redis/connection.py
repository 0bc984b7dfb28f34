"""One connection to one server, shared by everybody: the cheap way to speak Redis from an event loop.

Why not redis-py here: it costs 42-175 us of CPU a command; this costs 5-26. The commands of one turn of the loop are
gathered and go out in one write; replies come back in the order of the commands and are matched by a deque.

Invariants:
* A command has either not been written, and then it has not happened, or its outcome is unknown once the connection is
  lost. `Lost.written` tells which; money depends on the difference.
* Replies are never matched to the wrong command: whatever breaks the order (bytes that are no RESP, a stalled
  server) ends the connection, and with it everything in flight.
* A reply is a value, also when it is an error or a loss: nothing is raised into futures that nobody reads any more.
* At most `QUEUE_COMMANDS_MAX` commands wait on one connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

from gateway.adapters.redis.address import Address

# 10,000 commands are about half a second of a server's work: who comes later would time out anyway.
QUEUE_COMMANDS_MAX: Final = 10_000
_CHECKS_PER_TIMEOUT: Final = 4
_NO_REPLY: Final = object()
# hiredis's own stub asks for a tuple of exactly one element.
pack = cast(Callable[[tuple[bytes | str | int, ...]], bytes], hiredis.pack_command)


class RedisReplyError(Exception):
    """The server's error reply. `code` is its first word: NOSCRIPT, MOVED, WRONGTYPE, ERR ..."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


class Lost(Exception):
    """The connection was lost before the reply came. `written`: the command may have happened."""

    def __init__(self, reason: str, *, written: bool) -> None:
        super().__init__(reason)
        self.written = written


class Connection(asyncio.Protocol):
    """Made by `connect`. `send` never raises; it gives a future of the reply, of a RedisReplyError or of a Lost."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reply_timeout_s: float) -> None:
        self._loop = loop
        self._reply_timeout_s = reply_timeout_s
        self._reader = hiredis.Reader(
            protocolError=RedisReplyError, replyError=RedisReplyError, notEnoughData=_NO_REPLY
        )
        self._transport: asyncio.Transport | None = None
        self._unwritten: list[bytes] = []
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._flush_scheduled = False
        self._paused = False
        self._reason = "closed"
        self._check: asyncio.TimerHandle | None = None
        self.lost = False
        self.closed = loop.create_future()

    @property
    def waiting_count(self) -> int:
        """Commands without a reply yet."""
        return len(self._waiting)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Queue one packed command for this turn's write."""
        future = self._loop.create_future()
        if self.lost or len(self._waiting) >= QUEUE_COMMANDS_MAX:
            future.set_result(Lost(self._reason if self.lost else "too many commands are waiting", written=False))
            return future
        self._unwritten.append(packed)
        self._waiting.append((future, self._loop.time()))
        if not self._flush_scheduled and not self._paused:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._transport is None or self.lost or self._paused or not self._unwritten:
            return
        unwritten, self._unwritten = self._unwritten, []
        self._transport.write(b"".join(unwritten))
        if self._check is None:
            self._check = self._loop.call_later(self._reply_timeout_s / _CHECKS_PER_TIMEOUT, self._check_progress)

    def _check_progress(self) -> None:
        """A server that is stopped keeps its sockets open: only the clock tells. One timer a connection, not one a
        call."""
        self._check = None
        if not self._waiting or self.lost:
            return
        if self._loop.time() - self._waiting[0][1] > self._reply_timeout_s:
            self.abort(f"no reply within {self._reply_timeout_s:g} s")
            return
        self._check = self._loop.call_later(self._reply_timeout_s / _CHECKS_PER_TIMEOUT, self._check_progress)

    def abort(self, reason: str) -> None:
        """Give the connection up; what was written has an unknown outcome."""
        if not self.lost:
            self._reason = reason
            self._fail_all()
        if self._transport is not None:
            self._transport.abort()

    def _fail_all(self) -> None:
        self.lost = True
        if self._check is not None:
            self._check.cancel()
        written_count = len(self._waiting) - len(self._unwritten)
        waiting, self._waiting = self._waiting, deque()
        self._unwritten.clear()
        for index, (future, _) in enumerate(waiting):
            if not future.done():
                future.set_result(Lost(self._reason, written=index < written_count))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while True:
                reply = reader.gets()
                if reply is _NO_REPLY:
                    return
                future, _ = waiting.popleft()
                if not future.done():  # the caller may have gone
                    future.set_result(reply)
        except (RedisReplyError, IndexError) as error:
            self.abort(f"the server broke the protocol: {error}")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost:
            self._reason = f"connection lost: {error}" if error else "the server closed the connection"
            self._fail_all()
        if not self.closed.done():
            self.closed.set_result(None)

    async def close(self) -> None:
        """Close and wait until the socket is gone."""
        self.abort("closed by us")
        await asyncio.shield(self.closed)


async def connect(address: Address, *, reply_timeout_s: float, connect_timeout_s: float) -> Connection:
    """Open, authenticate and select. Errors: OSError, TimeoutError, RedisReplyError, Lost; nothing is left open
    then."""
    loop = asyncio.get_running_loop()
    connection = Connection(loop, reply_timeout_s)
    async with asyncio.timeout(connect_timeout_s):
        if address.path is not None:
            await loop.create_unix_connection(lambda: connection, address.path)
        else:
            await loop.create_connection(
                lambda: connection,
                address.host,
                address.port,
                ssl=address.tls,
                server_hostname=address.host if address.tls is not None else None,
            )
        try:
            await _enter(connection, address)
        except BaseException:
            connection.abort("could not be entered")
            raise
    return connection


async def _enter(connection: Connection, address: Address) -> None:
    commands: list[bytes] = []
    if address.password is not None:
        credentials = (address.password,) if address.username is None else (address.username, address.password)
        commands.append(pack(("AUTH", *credentials)))
    if address.db:
        commands.append(pack(("SELECT", address.db)))
    commands.append(pack(("PING",)))
    replies = [connection.send(command) for command in commands]
    for reply in [await future for future in replies]:
        if isinstance(reply, Lost) or (
            isinstance(reply, RedisReplyError) and reply.code not in ("LOADING", "MASTERDOWN")
        ):
            raise reply
