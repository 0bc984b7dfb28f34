"""The hot path's client against a real server: order, errors, lost connections, time limits."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import free_port, server_binary

from gateway.adapters.redis.address import Layout, parse_store_url
from gateway.adapters.redis.connection import RedisReplyError
from gateway.adapters.redis.link import RedisLink
from gateway.core.errors import InvalidRequest, OutcomeUnknown, Unavailable


@dataclass(frozen=True)
class Lua:
    name: str
    text: str

    @property
    def sha1(self) -> str:
        return hashlib.sha1(self.text.encode()).hexdigest()


# Counts by id, as every step of the ledger does: the same id changes nothing.
COUNT_ONCE = Lua(
    "count_once",
    "#!lua\nif redis.call('HSETNX', KEYS[1], ARGV[1], 1) == 1 then redis.call('INCR', KEYS[2]) end\n"
    "return redis.call('GET', KEYS[2])",
)
KEYS = ["{p00}seen", "{p00}n"]


class Server:
    """A server that a test may stop, kill and start again, with its file kept."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [
            *(server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always", *options),
        ]
        self._log = (directory / "server.log").open("ab")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=self._log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self._log.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


async def test_replies_come_to_their_own_callers(link: RedisLink) -> None:
    async def echo(number: int) -> bytes:
        reply: bytes = await link.command("ECHO", str(number), key="")
        return reply

    assert await asyncio.gather(*(echo(number) for number in range(500))) == [str(n).encode() for n in range(500)]


async def test_calls_of_one_turn_go_out_in_one_write(link: RedisLink) -> None:
    def reads(info: bytes) -> int:
        fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
        return int(fields[b"total_reads_processed"])

    before = reads(await link.command("INFO", "stats", key=""))
    await asyncio.gather(*(link.command("INCR", "{p00}n", key="{p00}n") for _ in range(100)))
    assert reads(await link.command("INFO", "stats", key="")) - before <= 6


async def test_a_cancelled_caller_does_not_disturb_the_others(link: RedisLink) -> None:
    gone = asyncio.create_task(link.command("BLPOP", "{p00}none", "0.2", key="{p00}none"))
    other = asyncio.create_task(link.command("ECHO", "mine", key=""))
    await asyncio.sleep(0.01)
    gone.cancel()
    assert await other == b"mine"


async def test_an_error_reply_is_raised_with_its_code(link: RedisLink) -> None:
    await link.command("SET", "{p00}s", "x", key="{p00}s")
    with pytest.raises(RedisReplyError) as refused:
        await link.command("HGET", "{p00}s", "f", key="{p00}s")
    assert refused.value.code == "WRONGTYPE"


async def test_a_script_that_the_server_does_not_know_is_loaded(link: RedisLink) -> None:
    answers = await asyncio.gather(*(link.script(COUNT_ONCE, KEYS, [f"id{n}"]) for n in range(50)))
    assert sorted(int(answer) for answer in answers) == list(range(1, 51))
    await link.command("SCRIPT", "FLUSH", key="")
    assert await link.script(COUNT_ONCE, KEYS, ["id0"]) == b"50"


async def test_latency_is_observed_per_call(valkey_url: str) -> None:
    seen: list[tuple[str, bool]] = []
    link = await RedisLink.open(
        valkey_url, observe=lambda name, seconds, *, ok: seen.append((name, ok and seconds > 0))
    )
    await link.script(COUNT_ONCE, KEYS, ["1"])
    with pytest.raises(RedisReplyError):
        await link.command("NOSUCH", key="")
    await link.close()
    assert seen == [("count_once", True), ("NOSUCH", False)]
    assert link.call_count == 2 and link.call_seconds > 0


async def test_a_script_survives_the_death_of_the_server_and_counts_once(server: Server) -> None:
    link = await RedisLink.open(server.url, timeout_s=10)
    results: list[asyncio.Task[bytes]] = []
    for number in range(300):
        results.append(asyncio.create_task(link.script(COUNT_ONCE, KEYS, [f"id{number}"])))
        if number == 150:
            await asyncio.sleep(0.001)
            server.kill()
            server.start()
        await asyncio.sleep(0)
    await asyncio.gather(*results)
    assert await link.command("GET", "{p00}n", key="{p00}n") == b"300"
    await link.close()


async def test_a_write_whose_reply_was_lost_is_told_as_unknown(server: Server) -> None:
    link = await RedisLink.open(server.url, timeout_s=5)
    os.kill(server.process.pid, signal.SIGSTOP)
    call = asyncio.create_task(link.command("INCR", "{p00}n", key="{p00}n"))
    await asyncio.sleep(0.05)
    server.kill()
    with pytest.raises(OutcomeUnknown) as unknown:
        await call
    assert unknown.value.code == "store_unavailable"
    await link.close()


async def test_a_call_that_never_went_out_is_told_as_not_done(server: Server) -> None:
    link = await RedisLink.open(server.url, timeout_s=0.3)
    server.kill()
    with pytest.raises(Unavailable):
        await link.command("PING", key="")
    with pytest.raises(Unavailable) as failed:
        await link.command("INCR", "{p00}n", key="{p00}n")
    assert not isinstance(failed.value, OutcomeUnknown)
    assert str(server.port) not in failed.value.detail
    await link.close()


async def test_a_stopped_server_holds_nobody_longer_than_the_timeout(server: Server) -> None:
    link = await RedisLink.open(server.url, timeout_s=0.5)
    os.kill(server.process.pid, signal.SIGSTOP)
    started = time.monotonic()
    answers = await asyncio.gather(
        *(link.script(COUNT_ONCE, KEYS, [f"id{number}"]) for number in range(20)), return_exceptions=True
    )
    assert all(isinstance(answer, OutcomeUnknown) for answer in answers)
    assert time.monotonic() - started < 2.0
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await link.script(COUNT_ONCE, KEYS, ["later"])
    assert time.monotonic() - started < 1.5
    os.kill(server.process.pid, signal.SIGCONT)
    for number in range(20):  # what was unknown is made certain by the same id
        await link.script(COUNT_ONCE, KEYS, [f"id{number}"])
    assert await link.command("GET", "{p00}n", key="{p00}n") == b"20"
    await link.close()


async def test_a_call_waits_for_a_server_that_comes_back(server: Server) -> None:
    link = await RedisLink.open(server.url, timeout_s=10)
    server.kill()
    call = asyncio.create_task(link.script(COUNT_ONCE, KEYS, ["1"]))
    await asyncio.sleep(0.3)
    assert not call.done()
    server.start()
    assert await call == b"1"
    await link.close()


async def test_a_password_is_needed_and_never_told(tmp_path: Path) -> None:
    server = Server(tmp_path, "--requirepass", "s3cret")
    try:
        link = await RedisLink.open(f"redis://:s3cret@127.0.0.1:{server.port}/2", timeout_s=10)
        assert await link.command("PING", key="") == b"PONG"
        assert "s3cret" not in repr(link.servers())
        await link.close()
        with pytest.raises(Unavailable):
            await RedisLink.open(f"redis://:wrong@127.0.0.1:{server.port}", timeout_s=0.2)
    finally:
        server.close()


async def test_tls_is_spoken_when_the_url_says_so(valkey_port: int, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
            "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with tls_in_front_of(valkey_port, context) as port:
        link = await RedisLink.open(f"rediss://localhost:{port}?ssl_ca_certs={certificate}", timeout_s=10)
        assert await link.command("PING", key="") == b"PONG"
        await link.close()
        with pytest.raises(Unavailable):  # nobody vouches for the certificate
            await RedisLink.open(f"rediss://localhost:{port}", timeout_s=0.2)


@asynccontextmanager
async def tls_in_front_of(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """What an operator has as stunnel: TLS outside, the plain server behind."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))

    front = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    async with front:
        yield front.sockets[0].getsockname()[1]


async def test_a_replica_is_waited_for_until_it_is_the_primary(server: Server, tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    replica = Server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {server.port}", "--repl-diskless-sync-delay", "0")
    try:
        link = await RedisLink.open(replica.url, timeout_s=10)
        call = asyncio.create_task(link.script(COUNT_ONCE, KEYS, ["1"]))
        await asyncio.sleep(0.2)
        assert not call.done()
        await link.command("REPLICAOF", "NO", "ONE", key="")
        assert await call == b"1"
        await link.close()
    finally:
        replica.close()


async def test_a_server_that_is_busy_with_a_script_is_waited_for(server: Server) -> None:
    link, other = await RedisLink.open(server.url, timeout_s=10), await RedisLink.open(server.url, timeout_s=10)
    await link.command("CONFIG", "SET", "busy-reply-threshold", 50, key="")
    endless = asyncio.create_task(link.command("EVAL", "while true do end", 0, key=""))
    await asyncio.sleep(0.3)
    call = asyncio.create_task(other.script(COUNT_ONCE, KEYS, ["1"]))
    await asyncio.sleep(0.1)
    assert not call.done()
    await other.command("SCRIPT", "KILL", key="")
    assert await call == b"1"
    with pytest.raises(RedisReplyError):
        await endless
    await link.close()
    await other.close()


async def test_the_queue_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.adapters.redis.connection.QUEUE_COMMANDS_MAX", 50)
    link = await RedisLink.open(server.url, timeout_s=0.4)
    os.kill(server.process.pid, signal.SIGSTOP)
    answers = await asyncio.gather(
        *(link.command("INCR", "{p00}n", key="{p00}n") for _ in range(80)), return_exceptions=True
    )
    unknown = [answer for answer in answers if isinstance(answer, OutcomeUnknown)]
    refused = [answer for answer in answers if type(answer) is Unavailable]
    assert (len(unknown), len(refused)) == (50, 30)
    os.kill(server.process.pid, signal.SIGCONT)
    await link.close()


async def test_a_server_that_talks_nonsense_ends_the_connection_and_nobody_waits() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unavailable):
            await RedisLink.open(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.3)


async def test_a_large_command_and_reply_pass_whole(link: RedisLink) -> None:
    blob = os.urandom(8_000_000)
    await link.command("SET", "{p00}blob", blob, key="{p00}blob")
    small = [link.command("ECHO", str(number), key="") for number in range(20)]
    assert await link.command("GET", "{p00}blob", key="{p00}blob") == blob
    assert await asyncio.gather(*small) == [str(number).encode() for number in range(20)]


async def test_a_closed_link_refuses(valkey_url: str) -> None:
    link = await RedisLink.open(valkey_url, timeout_s=0.2)
    await link.close()
    with pytest.raises(Unavailable):
        await link.command("PING", key="")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://x", "scheme"),
        ("unix+cluster://x", "scheme"),
        ("redis+sentinel://h:1", "service"),
        ("redis+cluster://", "host"),
        ("redis+cluster://h:1/3", "database 0"),
        ("redis+cluster://h:port", "host:port"),
        ("redis://h?ssl_ca_cert=x", "ssl_ca_cert"),
        ("redis://h?ssl_ca_certs=x", "rediss"),
        ("rediss://h?ssl_ca_certs=/nowhere", "TLS"),
        ("unix://", "path"),
    ],
)
def test_a_wrong_url_is_refused_with_what_would_be_right(url: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        parse_store_url(url)
    assert refused.value.param == "redis.url"


def test_urls_say_where_the_store_is() -> None:
    sentinel = parse_store_url("rediss+sentinel://u:p%40@a:1,b/service?db=3&sentinel_password=x")
    assert sentinel.layout is Layout.SENTINEL
    assert sentinel.seeds == (("a", 1), ("b", 26379))
    assert (sentinel.service, sentinel.sentinel_password, sentinel.address.password) == ("service", "x", "p@")
    assert sentinel.address.db == 3 and sentinel.address.tls is not None
    cluster = parse_store_url("redis+cluster://a:1,[::1]:2")
    assert cluster.seeds == (("a", 1), ("::1", 2))
    socket = parse_store_url("unix:///run/a%20b.sock?db=1")
    assert (socket.address.path, socket.address.db) == ("/run/a b.sock", 1)
    assert "p@" not in repr(sentinel)
