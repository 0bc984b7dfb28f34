"""The client's side of one relayed request: pieces go out as they come, and a client that hangs up is noticed.

A piece is sent from the upstream's own `data_received` by stepping the ASGI `send` coroutine once; where it would block
(the client reads slowly), the rest is driven by a task and further pieces queue (measured: 37 us a chunk against 45
with a task and a queue for every piece). The client's hang-up is seen through the future on which `receive` waits,
without a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Direct(Protocol):
    """What the server offers besides `send`. Each call sends all of it, or gives False and has sent nothing."""

    def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool: ...
    def write(self, data: bytes) -> bool: ...


class _Rest:
    """What is left of a coroutine that was stepped by hand and waits on `first`."""

    def __init__(self, coroutine: Any, first: Any) -> None:
        self.coroutine = coroutine
        self.first = first

    def __await__(self) -> Generator[Any, None, None]:
        yield self.first
        yield from self.coroutine.__await__()


class Outlet:
    """Writes one answer. `gone`: the client has hung up. `blocked_since`: loop time since when the client takes
    nothing."""

    __slots__ = (
        "_direct",
        "_drained",
        "_loop",
        "_on_gone",
        "_pump",
        "_queue",
        "_receive",
        "_send",
        "_watched",
        "begun",
        "blocked_since",
        "gone",
    )

    def __init__(self, receive: Receive, send: Send, direct: Direct | None = None) -> None:
        """`direct`: the shorter way out, where the server has one (`http_protocol.py`)."""
        self._receive = receive
        self._send = send
        self._direct = direct
        self._loop = asyncio.get_running_loop()
        self._queue: list[bytes] = []
        self._pump: asyncio.Task[None] | None = None
        self._drained: Callable[[], None] | None = None
        self._on_gone: Callable[[], None] | None = None
        self._watched: Any = None
        self.blocked_since: float | None = None
        self.gone = False
        self.begun = False

    async def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer."""
        self.begun = True
        if self._direct is not None and self._direct.respond(status, headers, body):
            return
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def begin(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        *,
        on_gone: Callable[[], None],
        on_drained: Callable[[], None],
    ) -> None:
        """Send the head of a streamed answer. `on_gone` is called when the client hangs up, `on_drained` when a client
        that blocked has taken all that was queued."""
        self.begun = True
        self._on_gone, self._drained = on_gone, on_drained
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self._watch()

    def write(self, data: bytes) -> bool:
        """Send a piece without waiting. False when the client does not keep up: pause the upstream until
        `on_drained`."""
        if self._pump is not None:
            self._queue.append(data)
            return False
        if self._direct is not None and self._direct.write(data):
            return True
        coroutine: Any = self._send({"type": "http.response.body", "body": data, "more_body": True})
        try:
            future = coroutine.send(None)
        except StopIteration:
            return True
        self.blocked_since = self._loop.time()
        self._pump = self._loop.create_task(self._drain(_Rest(coroutine, future)))
        return False

    async def _drain(self, rest: _Rest) -> None:
        await rest
        while self._queue and not self.gone:
            self.blocked_since = self._loop.time()
            data = b"".join(self._queue)
            self._queue.clear()
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._pump = None
        self.blocked_since = None
        if self._drained is not None and not self.gone:
            self._drained()

    async def finish(self, data: bytes = b"") -> None:
        """Send the last piece and end the answer cleanly."""
        if self._pump is not None:
            await asyncio.wait([self._pump])
        await self._send({"type": "http.response.body", "body": data})
        self.release()

    def cut_off(self) -> None:
        """Give up on a client that takes nothing. What its request owes may go on, and waits for nobody."""
        if self._pump is not None:
            self._pump.cancel()
        self._pump = self.blocked_since = None
        self._queue.clear()
        self.gone = True

    def release(self) -> None:
        """No more calls will be made to `on_gone` or `on_drained`."""
        self._on_gone = self._drained = None
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.close()

    def _watch(self) -> None:
        """Step `receive` until it waits, and be called when what it waits for happens."""
        coroutine: Any = self._receive()
        try:
            future = coroutine.send(None)
        except StopIteration as done:
            self._received(done.value)
            return
        self._watched = coroutine
        # The future was made for a task to wait on; we wait by callback instead.
        future._asyncio_future_blocking = False  # noqa: SLF001
        future.add_done_callback(self._woken)

    def _woken(self, _future: object) -> None:
        coroutine, self._watched = self._watched, None
        if coroutine is None:
            return
        try:
            future = coroutine.send(None)
        except StopIteration as done:
            self._received(done.value)
            return
        self._watched = coroutine
        future._asyncio_future_blocking = False  # noqa: SLF001
        future.add_done_callback(self._woken)

    def _received(self, message: Message) -> None:
        if message["type"] != "http.disconnect":
            self._watch()
            return
        if self._on_gone is not None:
            self.gone = True
            on_gone, self._on_gone = self._on_gone, None
            on_gone()
