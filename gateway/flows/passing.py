"""An answer passed through as it comes: too large to be read whole, or no text at all.

Invariants: an answer whose end tells what it costs is read to that end although the client has gone, because the
upstream has done the work and bills it; a client that takes nothing is cut, because it holds a connection of the
upstream's, and money.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.core.headers import Headers
from gateway.ports import Answer

# How often the reader of an answer is looked at.
READER_CHECK_S = 5.0


class Outlet(Protocol):
    """The client's side of the request (web/outlet.py)."""

    gone: bool
    blocked_since: float | None

    async def respond(self, status: int, headers: Headers, body: bytes) -> None: ...
    async def begin(
        self, status: int, headers: Headers, *, on_gone: Callable[[], None], on_drained: Callable[[], None]
    ) -> None: ...
    def write(self, data: bytes) -> bool: ...
    async def finish(self, data: bytes = b"") -> None: ...
    def cut_off(self) -> None: ...
    def release(self) -> None: ...


async def pass_through(
    answer: Answer,
    outlet: Outlet,
    headers: Headers,
    *,
    also: Callable[[bytes], None] | None = None,
    drains: bool = False,
    stalled_reader_s: float,
) -> bool:
    """Stream an answer through, `also` being shown every piece. True when it came to its proper end. `drains`: it is
    read to its end also when the client has gone."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def arrive(data: bytes) -> None:
        if also is not None:
            also(data)
        if not outlet.gone and not outlet.write(data):
            answer.pause()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    def gone() -> None:
        if drains:
            answer.resume()
            return
        answer.abort()
        end()

    await outlet.begin(answer.status, headers, on_gone=gone, on_drained=answer.resume)
    try:
        answer.stream(arrive, end)
        while not over.done():
            await asyncio.wait([over], timeout=READER_CHECK_S)
            blocked_since = outlet.blocked_since
            if not outlet.gone and blocked_since is not None and loop.time() - blocked_since > stalled_reader_s:
                outlet.cut_off()
                gone()
    finally:
        outlet.release()
    return answer.complete
