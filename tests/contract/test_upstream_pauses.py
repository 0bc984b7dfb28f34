"""A sink that pauses the upstream is not fed on, and a pause never reaches the answer of somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.adapters.exchange import Exchange
from gateway.adapters.upstream import UpstreamPool, target_of
from gateway.core.errors import UpstreamFailed

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def serving(
    script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **settings: float
) -> AsyncIterator[UpstreamPool]:
    """A pool over a server that plays a script, and is waited for."""
    done: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over = asyncio.Event()
        done.append(over)
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = UpstreamPool(target_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", **settings))
    try:
        yield pool
    finally:
        pool.close()
        for over in done:
            await asyncio.wait_for(over.wait(), 5)
        server.close()
        await server.wait_closed()


async def _babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ENDLESS)
    while True:
        writer.write(b"4\r\ntext\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


async def test_a_sink_that_pauses_at_the_first_piece_gets_no_second_one() -> None:
    async with serving(_babble) as pool:
        exchange = await pool.open(ASK, b"")
        while not exchange.buffered:  # a piece that came before anybody asked for it
            await asyncio.sleep(0)
        pieces: list[bytes] = []
        more: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(piece: bytes) -> None:
            pieces.append(piece)
            exchange.pause()
            if len(pieces) > 1 and not more.done():
                more.set_result(None)

        exchange.stream(take, lambda: None)
        await asyncio.wait([more], timeout=0.3)
        assert len(pieces) == 1
        exchange.resume()
        await asyncio.wait_for(more, 5)
        exchange.abort()


async def test_a_pause_after_the_end_does_not_hold_up_the_connections_next_answer() -> None:
    async with serving(_answer) as pool:
        first: Exchange = await pool.open(ASK, b"")
        assert await first.read_up_to(100) == b"ok"
        second = await pool.open(ASK, b"")
        first.pause()
        assert await asyncio.wait_for(second.read_up_to(100), 5) == b"ok"
        first.pause()
        third = await asyncio.wait_for(pool.open(ASK, b""), 5)
        assert await asyncio.wait_for(third.read_up_to(100), 5) == b"ok"


async def test_an_answer_that_stands_still_is_broken_off_also_where_it_is_read_whole() -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        await reader.read()
        writer.close()

    async with serving(stall, read_timeout_s=0.2) as pool:
        exchange = await pool.open(ASK, b"")
        with pytest.raises(UpstreamFailed, match="stalled"):
            await asyncio.wait_for(exchange.read_up_to(100), 5)
        assert pool.open_connections == 0


async def test_an_answer_that_we_paused_ourselves_is_waited_for() -> None:
    async with serving(_babble, read_timeout_s=0.1) as pool:
        exchange = await pool.open(ASK, b"")
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        exchange.stream(lambda _: exchange.pause(), lambda: ended.set_result(None))
        await asyncio.wait([ended], timeout=1.0)
        assert not ended.done()
        exchange.abort()
