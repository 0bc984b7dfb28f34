"""The sender of webhooks over real sockets: where it connects to, what it follows, and how long it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.adapters.webhooks import WebhookSender, make_secret


@dataclass(slots=True)
class Server:
    """A receiver. `answer` is sent as it is, once a request was read."""

    answer: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    drip_s: float = 0.0  # between the bytes of the answer
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                self.requests.append(head + await reader.readexactly(length))
                for byte in [self.answer] if not self.drip_s else [bytes([each]) for each in self.answer]:
                    writer.write(byte)
                    await writer.drain()
                    await asyncio.sleep(self.drip_s)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(host: str = "127.0.0.1", **settings: object) -> AsyncIterator[Server]:
    server = Server(**settings)  # type: ignore[arg-type]
    listening = await asyncio.start_server(server.serve, host, 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def sending(
    resolve: Callable[[str, int], list[str]], *, allow_private: bool = True, timeout_s: float = 2.0
) -> AsyncIterator[Callable[[str], object]]:
    sender = WebhookSender(allow_private=allow_private, timeout_s=timeout_s, resolve=resolve)

    async def send(url: str) -> tuple[int, str]:
        return await sender.send(url, event_id="evt_1", body=b"{}", signing=[make_secret()])

    try:
        yield send
    finally:
        await sender.close()


def always(*numbers: str) -> Callable[[str, int], list[str]]:
    return lambda _host, _port: list(numbers)


async def test_it_connects_to_the_number_that_was_checked_and_asks_for_the_name() -> None:
    async with serving() as server, sending(always("127.0.0.1")) as send:
        assert await send(f"http://hooks.example:{server.port}/in?x=1") == (200, "")  # type: ignore[misc]
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /in?x=1 HTTP/1.1\r\n") and body == b"{}"
        assert f"host: hooks.example:{server.port}".encode() in head.lower()


async def test_names_that_share_a_number_share_no_connection() -> None:
    """A connection belongs to the name that its certificate was checked for."""
    async with serving() as server, sending(always("127.0.0.1")) as send:
        for name in ("one.example", "two.example", "one.example"):
            assert await send(f"http://{name}:{server.port}/") == (200, "")  # type: ignore[misc]
        assert server.connections == 3


@pytest.mark.parametrize("numbers", [
    ("127.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("10.0.0.1", "8.8.8.8"), ("::1",), ("::ffff:127.0.0.1",), ("64:ff9b::7f00:1",),
    ("169.254.169.254",), ("2606:4700::1", "fe80::1"), (),
])  # fmt: skip
async def test_a_name_that_stands_for_anything_of_the_inside_is_not_told(numbers: tuple[str, ...]) -> None:
    async with serving() as server, sending(always(*numbers), allow_private=False) as send:
        status, why = await send(f"https://hooks.example:{server.port}/")  # type: ignore[misc]
        assert (status, server.connections) == (0, 0) and "public" in why


@pytest.mark.parametrize("url", ["https://localhost/", "https://[::1/", "https://127.0.0.1/", "http://example.com/"])
async def test_an_address_that_was_set_before_it_was_refused_is_not_told_either(url: str) -> None:
    async with sending(always("8.8.8.8"), allow_private=False) as send:
        status, why = await send(url)  # type: ignore[misc]
        assert status == 0 and why


async def test_a_number_that_takes_no_connection_is_passed_over() -> None:
    async with serving("127.0.0.2") as server, sending(always("127.0.0.1", "127.0.0.2")) as send:
        assert await send(f"http://hooks.example:{server.port}/") == (200, "")  # type: ignore[misc]


async def test_a_redirect_is_not_followed() -> None:
    async with serving() as inside:
        to = f"http://127.0.0.1:{inside.port}/secret"
        answer = f"HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n".encode()
        async with serving(answer=answer) as server, sending(always("127.0.0.1")) as send:
            assert await send(f"http://hooks.example:{server.port}/") == (307, "status 307")  # type: ignore[misc]
        assert inside.connections == 0


async def test_an_answer_that_drips_is_given_up_in_time() -> None:
    """Each byte comes within the time for one; the whole never comes."""
    async with serving(drip_s=0.2, answer=b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 99) as server:
        async with sending(always("127.0.0.1"), timeout_s=0.6) as send:
            started_s = time.monotonic()
            assert await send(f"http://hooks.example:{server.port}/") == (0, "TimeoutError")  # type: ignore[misc]
            assert time.monotonic() - started_s < 2.0


async def test_a_name_server_that_hangs_is_given_up_in_time() -> None:
    def hang(_host: str, _port: int) -> list[str]:
        time.sleep(1.0)
        return ["127.0.0.1"]

    async with sending(hang, timeout_s=0.2) as send:
        started_s = time.monotonic()
        assert await send("http://hooks.example/") == (0, "TimeoutError")  # type: ignore[misc]
        assert time.monotonic() - started_s < 0.9


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 999_999]
)
async def test_an_answer_that_is_none_is_a_failure(answer: bytes) -> None:
    async with serving(answer=answer) as server, sending(always("127.0.0.1"), timeout_s=1.0) as send:
        status, why = await send(f"http://hooks.example:{server.port}/")  # type: ignore[misc]
        assert status == 0 and why


async def test_a_great_answer_is_not_read() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + b"x" * 1_000_000
    async with serving(answer=answer) as server, sending(always("127.0.0.1")) as send:
        assert await send(f"http://hooks.example:{server.port}/") == (200, "")  # type: ignore[misc]
