"""The relay's own HTTP protocol: real sockets, a real uvicorn, an application that answers as it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from relay_server import served

from gateway.web.http_protocol import EXTENSION, Direct
from gateway.web.outlet import Outlet

JSON = [(b"content-type", b"application/json")]


async def said(address: tuple[str, int], sent: bytes) -> bytes:
    """All that the server says to these bytes until it closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


def request(*lines: str, method: str = "POST", path: str = "/x", body: bytes = b"") -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "host: h", *lines))
    length = f"content-length: {len(body)}\r\n" if body else ""
    return f"{head}{length}\r\n".encode() + body


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Says what it read, whole, by the shorter way where it is open."""
    direct: Direct = scope["extensions"][EXTENSION]
    body = direct.take_body()
    by = b"taken" if body is not None else b"received"
    while body is None:
        message = await receive()
        body = message["body"] if not message["more_body"] else None
    text = b"|".join((by, scope["method"].encode(), scope["raw_path"], scope["query_string"], body))
    await Outlet(receive, send, direct).respond(200, JSON, text)


async def test_an_answer_goes_out_whole_with_its_length() -> None:
    async with served(echo) as address:
        first = request(body=b"abc")
        answers = await said(address, first + request("connection: close", path="/y/z?a=%20b", body=b"d"))
    one, two = answers.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert one.endswith(b"taken|POST|/x||abc") and b"content-length: 18\r\n" in one
    assert b"connection: close\r\n" in two and b"|POST|/y/z|a=%20b|d" in two


async def test_a_body_that_comes_in_pieces_is_received() -> None:
    async with served(echo) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request("connection: close", "content-length: 6") + b"abc")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"def")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert b"received|POST" in answer


async def test_expect_is_answered_before_the_body_is_taken() -> None:
    async with served(echo) as address:
        answer = await said(address, request("expect: 100-continue", "connection: close", body=b"abc"))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_a_head_request_gets_no_body() -> None:
    async with served(echo) as address:
        answer = await said(address, request("connection: close", method="HEAD"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("header", [(b"x-a", b"1\r\nset-cookie: a=b"), (b"x-a\r\nx-b", b"1"), (b"x-a", b"1\nx-b: 2")])
async def test_a_header_that_would_end_its_own_line_never_goes_out(header: tuple[bytes, bytes]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await Outlet(receive, send, scope["extensions"][EXTENSION]).respond(200, [header], b"x")

    async with served(app) as address:
        answer = await said(address, request("connection: keep-alive", method="GET") + request("connection: close"))
    assert b"x-b" not in answer and b"set-cookie" not in answer


async def test_pieces_of_a_stream_go_out_as_they_are_written() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet = Outlet(receive, send, scope["extensions"][EXTENSION])
        await outlet.begin(200, [], on_gone=lambda: None, on_drained=lambda: None)
        assert outlet.write(b"one") and outlet.write(b"two")
        await outlet.finish(b"three")

    async with served(app) as address:
        answer = await said(address, request("connection: close"))
    assert answer.endswith(b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")


async def test_a_client_that_does_not_keep_up_is_told_and_gets_everything_later() -> None:
    piece, drained = b"a" * 262_144, asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet = Outlet(receive, send, scope["extensions"][EXTENSION])
        await outlet.begin(200, [], on_gone=lambda: None, on_drained=drained.set)
        count = 1
        while outlet.write(piece):
            count += 1
        await drained.wait()
        await outlet.finish(b"%d" % count)

    async with served(app) as address:
        answer = await said(address, request("connection: close"))
    count = int(answer.rsplit(b"\r\n", 4)[1])
    assert answer.count(b"a") >= count * len(piece)


async def test_a_connection_that_stays_silent_is_closed_but_not_before_its_time() -> None:
    async with served(echo, keep_alive_s=1) as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            writer.write(request(body=b"abc"))
            assert await reader.readuntil(b"|abc")
            await asyncio.sleep(0.6)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
