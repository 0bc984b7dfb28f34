"""The relay's client against a server that says, byte by byte, what an upstream may say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import pytest

from gateway.adapters.exchange import Exchange
from gateway.adapters.upstream import UpstreamPool, target_of
from gateway.core.errors import UpstreamFailed, UpstreamTimeout

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Upstream:
    """Plays a script on every connection and counts them."""

    def __init__(self, script: Script) -> None:
        self.connections = 0
        self._script = script

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    def pool(self, **settings: float) -> UpstreamPool:
        return UpstreamPool(target_of(f"http://127.0.0.1:{self.port}", **settings))


def replies(*answers: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    return script


async def collect(exchange: Exchange) -> tuple[list[bytes], bool]:
    pieces: list[bytes] = []
    over = asyncio.get_running_loop().create_future()
    exchange.stream(pieces.append, lambda: over.set_result(None))
    await asyncio.wait_for(over, 5)
    return pieces, exchange.complete


async def test_a_connection_serves_one_exchange_after_another() -> None:
    async with Upstream(replies(OK, OK, OK)) as upstream:
        pool = upstream.pool()
        for _ in range(3):
            exchange = await pool.open(HEAD, b"")
            assert (exchange.status, await exchange.read_up_to(100)) == (200, b"ok")
        assert upstream.connections == 1
        pool.close()


async def test_a_connection_that_says_close_is_not_used_again() -> None:
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    async with Upstream(replies(closing)) as upstream:
        pool = upstream.pool()
        for _ in range(2):
            assert await (await pool.open(HEAD, b"")).read_up_to(100) == b"ok"
        assert upstream.connections == 2
        pool.close()


async def test_an_idle_connection_that_died_is_replaced_without_the_caller_noticing() -> None:
    async with Upstream(replies(OK)) as upstream:
        pool = upstream.pool()
        for _ in range(2):
            assert await (await pool.open(HEAD, b"")).read_up_to(100) == b"ok"
        assert upstream.connections == 2
        pool.close()


async def test_what_one_read_returned_is_one_piece() -> None:
    chunks = b"".join(b"5\r\nhello\r\n" for _ in range(40))
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    async with Upstream(replies(answer)) as upstream:
        pool = upstream.pool()
        pieces, complete = await collect(await pool.open(HEAD, b""))
        assert pieces == [b"hello" * 40]
        assert complete
        pool.close()


async def test_an_answer_that_breaks_off_is_not_complete() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
    async with Upstream(replies(answer)) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(HEAD, b"")
        pieces, complete = await collect(exchange)
        assert (pieces, complete) == ([b"half"], False)
        assert exchange.failure is not None
        with pytest.raises(UpstreamFailed):
            await (await pool.open(HEAD, b"")).read_up_to(1000)
        pool.close()


async def test_an_answer_without_framing_ends_with_the_connection() -> None:
    async with Upstream(replies(b"HTTP/1.1 200 OK\r\n\r\nall of it")) as upstream:
        pool = upstream.pool()
        assert await (await pool.open(HEAD, b"")).read_up_to(100) == b"all of it"
        pool.close()


async def test_early_hints_are_passed_over() -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK
    async with Upstream(replies(answer)) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(HEAD, b"")
        assert (exchange.status, exchange.headers) == (200, [(b"content-length", b"2")])
        pool.close()


async def test_what_is_not_http_fails_with_a_reason() -> None:
    async with Upstream(replies(b"SSH-2.0-OpenSSH\r\n\r\n")) as upstream:
        pool = upstream.pool()
        with pytest.raises(UpstreamFailed, match="not HTTP"):
            await pool.open(HEAD, b"")
        pool.close()


async def test_an_upstream_that_does_not_answer_in_time_is_a_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Upstream(silent) as upstream:
        pool = upstream.pool(headers_timeout_s=0.05)
        with pytest.raises(UpstreamTimeout):
            await pool.open(HEAD, b"")
        pool.close()


async def test_nobody_listening_is_a_failure() -> None:
    async with Upstream(replies()) as upstream:
        pool = upstream.pool()
    await asyncio.sleep(0)
    with pytest.raises(UpstreamFailed):
        await pool.open(HEAD, b"")


async def test_an_abort_closes_the_upstreams_connection_at_once() -> None:
    seen = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        if await reader.read() == b"":
            seen.set()

    async with Upstream(endless) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(HEAD, b"")
        exchange.abort()
        await asyncio.wait_for(seen.wait(), 5)
        assert pool.open_connections == 0
        pool.close()


async def test_a_body_above_the_limit_stays_for_streaming() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000
    async with Upstream(replies(answer)) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(HEAD, b"")
        assert await exchange.read_up_to(1000) is None
        pieces, complete = await collect(exchange)
        assert (b"".join(pieces), complete) == (b"x" * 5000, True)
        pool.close()


async def test_an_upload_streams_and_the_answer_follows() -> None:
    got: list[bytes] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.append(await reader.readexactly(300_000))
        writer.write(OK)
        await writer.drain()

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"u" * 1000

    async with Upstream(count) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(HEAD, b"", upload())
        assert await exchange.read_up_to(100) == b"ok"
        assert got == [b"u" * 300_000]
        pool.close()


async def test_a_paused_exchange_stops_reading_the_socket() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            writer.write(b"y" * 100_000)
            await writer.drain()
            sent += 100_000

    async with Upstream(flood) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(HEAD, b"")
        received = 0

        def take(data: bytes) -> None:
            nonlocal received
            received += len(data)
            exchange.pause()

        exchange.stream(take, lambda: None)
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert received < 2_000_000
        exchange.abort()
        pool.close()


async def test_a_second_answer_in_one_read_is_nobodys_and_ends_the_connection() -> None:
    second = b"HTTP/1.1 500 Broken\r\nx-second: yes\r\ncontent-length: 6\r\n\r\nsecond"
    async with Upstream(replies(OK + second, OK)) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(HEAD, b"")
        assert (exchange.status, exchange.headers) == (200, [(b"content-length", b"2")])
        assert await exchange.read_up_to(100) == b"ok"
        assert await (await pool.open(HEAD, b"")).read_up_to(100) == b"ok"
        assert upstream.connections == 2
        pool.close()


async def test_trailers_are_no_headers() -> None:
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nset-cookie: a=b\r\n\r\n"
    async with Upstream(replies(answer)) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(HEAD, b"")
        assert await exchange.read_up_to(100) == b"ok"
        assert exchange.headers == [(b"transfer-encoding", b"chunked")]
        pool.close()


async def test_an_answer_to_head_has_no_body_to_wait_for() -> None:
    async with Upstream(replies(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n")) as upstream:
        pool = upstream.pool()
        exchange = await pool.open(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"")
        assert await asyncio.wait_for(exchange.read_up_to(100), 5) == b""
        assert exchange.headers == [(b"content-length", b"5000")]
        pool.close()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
     b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
     b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n"],
)  # fmt: skip
async def test_an_answer_that_two_readers_would_read_differently_is_a_failure(answer: bytes) -> None:
    async with Upstream(replies(answer)) as upstream:
        pool = upstream.pool(headers_timeout_s=2.0)
        with pytest.raises(UpstreamFailed):
            await (await pool.open(HEAD, b"")).read_up_to(100)
        assert pool.open_connections == 0
        pool.close()
