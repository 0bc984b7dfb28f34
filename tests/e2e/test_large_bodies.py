"""Uploads and downloads of raw routes stream: neither is ever kept whole, and what holds money ends with its client."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from e2e.stack import CALL_MSAT, Parts, Stack, proof, start_stack, until, workers_of

MIB = 1024 * 1024
LARGE_MIB = 50
GROWTH_MOST_MIB = 20
UPLOAD_MOST_MIB = 64


class Warehouse:
    """An upstream that takes and gives large bodies, and remembers what came: an ASGI application on a thread of its
    own."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            await self._give(int(scope["path"].rpartition("/")[2]), send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen = {"bytes": 0, "headers": headers, "gone": False, "method": scope["method"]}
        self.received.append(seen)
        digest, more = hashlib.sha256(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                seen["gone"] = True
                return
            digest.update(message["body"])
            seen["bytes"] += len(message["body"])
            more = message["more_body"]
        seen["sha256"] = digest.hexdigest()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"sha256":"%b"}' % digest.hexdigest().encode()})

    async def _give(self, n_mib: int, send: Any) -> None:
        headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % (n_mib * MIB))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(n_mib):
            await send({"type": "http.response.body", "body": bytes([number]) * MIB, "more_body": number < n_mib - 1})


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    warehouse = Warehouse()
    listener = socket.create_server(("127.0.0.1", 0))
    warehouse.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(warehouse, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    until(lambda: server.started, what="the upstream")
    yield warehouse
    server.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture(scope="module")
def gateway(parts: Parts, warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    common = {"base_url": warehouse.url, "upload_least_bytes_per_s": 1_000_000}
    upstreams = {"tools": {"dialect": "raw"} | common, "openai": {"dialect": "openai"} | common}
    limits = {"upload_most_bytes": UPLOAD_MOST_MIB * MIB}
    with start_stack(
        tmp_path_factory.mktemp("large"),
        parts,
        upstreams=upstreams,
        limits=limits,
        routes=[
            {
                "path": "/raw/*",
                "methods": ["GET", "POST", "PUT"],
                "upstream": "tools",
                "price": {"usd_per_call": "0.001"},
            }
        ],
    ) as stack:
        stack.http.timeout = httpx.Timeout(60)
        yield stack


@pytest.fixture
def credential(gateway: Stack) -> str:
    return gateway.buy(10)


def memory_mib(stack: Stack, field: str = "VmRSS") -> float:
    """Of the process that serves."""
    pid = (workers_of(stack.process) or [stack.process.pid])[0]
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise AssertionError(field)


def pieces(n_mib: int, *, piece_bytes: int = 256 * 1024) -> Iterator[bytes]:
    for number in range(n_mib * MIB // piece_bytes):
        yield bytes([number % 251]) * piece_bytes


def digest_of(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def peak_grown_by(stack: Stack, work: Any) -> float:
    """How many MiB the peak of the process's memory rose above what it was before."""
    before = memory_mib(stack)
    most, done = before, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, memory_mib(stack))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most - before


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_streams_through_unchanged(
    gateway: Stack, warehouse: Warehouse, credential: str, chunked: bool
) -> None:
    gateway.http.post("/raw/warm", content=b"x", headers=proof(credential))
    headers = proof(credential) | ({} if chunked else {"content-length": str(LARGE_MIB * MIB)})

    def upload() -> None:
        answer = gateway.http.post("/raw/store", content=pieces(LARGE_MIB), headers=headers)
        assert answer.status_code == 200
        assert answer.json()["sha256"] == digest_of(pieces(LARGE_MIB))

    grown = peak_grown_by(gateway, upload)
    framing = warehouse.received[-1]["headers"]
    assert warehouse.received[-1]["bytes"] == LARGE_MIB * MIB
    assert ("transfer-encoding" in framing) is chunked and ("content-length" in framing) is not chunked
    assert "authorization" not in framing
    assert grown < GROWTH_MOST_MIB
    assert gateway.settled(credential)["posted"] == 2 * CALL_MSAT


def test_a_large_download_streams_through_unchanged(gateway: Stack, credential: str) -> None:
    gateway.http.get("/raw/give/1", headers=proof(credential))
    digest, size = hashlib.sha256(), 0

    def download() -> None:
        nonlocal size
        with gateway.http.stream("GET", f"/raw/give/{LARGE_MIB}", headers=proof(credential)) as answer:
            for part in answer.iter_raw():
                digest.update(part)
                size += len(part)

    grown = peak_grown_by(gateway, download)
    assert size == LARGE_MIB * MIB
    assert digest.hexdigest() == digest_of(bytes([number]) * MIB for number in range(LARGE_MIB))
    assert grown < GROWTH_MOST_MIB
    assert gateway.settled(credential)["posted"] == 2 * CALL_MSAT


def test_a_reader_that_pauses_stops_the_upstream_and_not_the_memory(gateway: Stack, credential: str) -> None:
    def download() -> None:
        with gateway.http.stream("GET", f"/raw/give/{LARGE_MIB}", headers=proof(credential)) as answer:
            parts = answer.iter_raw()
            next(parts)
            deadline = time.monotonic() + 1.0
            until(lambda: time.monotonic() > deadline, what="a second of silence")
            assert sum(len(part) for part in parts) > (LARGE_MIB - 2) * MIB

    assert peak_grown_by(gateway, download) < GROWTH_MOST_MIB


def test_a_form_on_a_raw_route_streams_too(gateway: Stack, warehouse: Warehouse, credential: str) -> None:
    file = {"file": ("large.bin", b"\x07" * (8 * MIB), "application/octet-stream")}
    answer = gateway.http.post("/raw/form", files=file, data={"note": "hello"}, headers=proof(credential))
    assert answer.status_code == 200
    assert warehouse.received[-1]["bytes"] > 8 * MIB
    assert warehouse.received[-1]["headers"]["content-type"].startswith("multipart/form-data; boundary=")


def test_a_json_body_of_a_raw_route_may_be_anything(gateway: Stack, warehouse: Warehouse, credential: str) -> None:
    answer = gateway.http.put("/raw/any", content=b"{not json", headers=proof(credential))
    assert answer.status_code == 200 and answer.headers["farebox-cost"] == f"amount_msat={CALL_MSAT}"
    assert warehouse.received[-1]["bytes"] == 9 and warehouse.received[-1]["method"] == "PUT"


def test_a_body_on_a_get_goes_up_too(gateway: Stack, credential: str) -> None:
    answer = gateway.http.request("GET", "/raw/give/1", content=b"a query", headers=proof(credential))
    assert answer.status_code == 200 and len(answer.content) == MIB


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_above_the_limit_is_413_and_costs_nothing(gateway: Stack, credential: str, chunked: bool) -> None:
    size = (UPLOAD_MOST_MIB + 1) * MIB
    headers = proof(credential) | ({} if chunked else {"content-length": str(size)})
    answer = gateway.http.post("/raw/store", content=pieces(UPLOAD_MOST_MIB + 1), headers=headers)
    assert answer.status_code == 413 and answer.json()["code"] == "too_large"
    assert gateway.settled(credential)["posted"] == 0


def test_who_has_not_paid_is_answered_before_the_body_is_read(gateway: Stack, warehouse: Warehouse) -> None:
    seen = len(warehouse.received)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as raw:
        raw.sendall(b"POST /raw/store HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 50000000\r\n\r\n")
        assert raw.recv(65_536).startswith(b"HTTP/1.1 402 ")
    assert len(warehouse.received) == seen


def test_expect_100_continue_is_answered_and_not_passed_on(
    gateway: Stack, warehouse: Warehouse, credential: str
) -> None:
    size = 200_000
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as raw:
        raw.sendall(
            b"POST /raw/store HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\n"
            b"authorization: L402 %b\r\ncontent-length: %d\r\n\r\n" % (credential.encode(), size)
        )
        assert raw.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b"\x01" * size)
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert warehouse.received[-1]["bytes"] == size and "expect" not in warehouse.received[-1]["headers"]


def test_a_client_gone_in_mid_upload_costs_nothing(gateway: Stack, warehouse: Warehouse, credential: str) -> None:
    seen = len(warehouse.received)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as raw:
        raw.sendall(
            b"POST /raw/store HTTP/1.1\r\nhost: x\r\nauthorization: L402 %b\r\ncontent-length: 50000000\r\n\r\n"
            % credential.encode()
        )
        raw.sendall(b"\x01" * MIB)
        until(lambda: len(warehouse.received) > seen, what="the upstream's request")
        assert gateway.balance(credential)["held"] == CALL_MSAT
    assert gateway.settled(credential)["posted"] == 0
    until(lambda: warehouse.received[-1]["gone"], what="the end of the upstream's request")


def test_an_upload_slower_than_the_least_rate_is_given_up(gateway: Stack, credential: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as raw:
        raw.sendall(
            b"POST /raw/store HTTP/1.1\r\nhost: x\r\nauthorization: L402 %b\r\ncontent-length: 50000000\r\n\r\n"
            % credential.encode()
        )
        raw.sendall(b"\x01" * 100_000)
        until(lambda: gateway.balance(credential)["held"] == CALL_MSAT, what="the hold")
        answer = raw.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 422 ") and b"slower" in answer
    assert gateway.settled(credential)["posted"] == 0
