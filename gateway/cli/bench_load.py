"""The load of a benchmark, in a process of its own: one order a line on standard input, one result a line on standard
output.

A raw protocol over uvloop that writes prepared bytes and looks for the end of the answer, so that the client costs less
than what it measures. Every load is closed (a connection asks again when it has its answer) and bounded in requests and
time. CPU is read where the load is made, between warm-up and end, so that nothing else falls into the interval.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import msgspec
import uvloop

from gateway.cli.bench_connection import Connection, Tally
from gateway.cli.bench_process import cpu_s, family, memory

READY_S = 30.0
_SETTLE_S = 0.3


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `watch`: name -> process whose CPU and memory is told. `needle`: what a good answer contains."""

    kind: str  # closed, paced, open
    host: str
    port: int
    request: bytes
    expect_status: int = 200
    needle: bytes = b""
    chunk_bytes: int = 250
    connections: int = 1
    seconds: float = 1.0
    warm_s: float = 0.2
    requests_most: int = 1_000_000
    stagger_s: float = 0.0
    watch: dict[str, int] = {}


class Result(msgspec.Struct, kw_only=True):
    """What was measured. Times in seconds, latencies sorted."""

    requests: int = 0
    failed: int = 0
    failure: str = ""
    seconds: float = 0.0
    body_bytes: int = 0
    latencies: list[float] = []
    cpu_s: dict[str, float] = {}
    memory_before: dict[str, tuple[int, int]] = {}
    memory_open: dict[str, tuple[int, int]] = {}


class _Watch:
    def __init__(self, watch: dict[str, int]) -> None:
        self._families = {name: family(pid) for name, pid in watch.items()}
        self._at: dict[str, float] = {}

    def begin(self) -> None:
        self._at = self._read()

    def spent(self) -> dict[str, float]:
        return {name: now - self._at[name] for name, now in self._read().items()}

    def _read(self) -> dict[str, float]:
        return {name: cpu_s(pids) for name, pids in self._families.items()}

    def memory(self) -> dict[str, tuple[int, int]]:
        return {name: (*memory(pids),) for name, pids in self._families.items()}


async def _connect(order: Order, tally: Tally, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, connection = await loop.create_connection(lambda: Connection(order.request, tally), order.host, order.port)
        made.append(connection)
    return made


async def _closed(order: Order) -> Result:
    """Ask again and again on every connection."""
    tally = Tally(order.expect_status, order.needle)
    connections = await _connect(order, tally, order.connections)
    watch = _Watch(order.watch)
    for connection in connections:
        connection.ask()
    await asyncio.sleep(order.warm_s)
    tally.reset(order.requests_most)
    watch.begin()
    began = time.perf_counter()
    await asyncio.wait([tally.enough], timeout=order.seconds)
    spent, seconds = watch.spent(), time.perf_counter() - began
    result = _result(tally, seconds, spent)
    tally.stop()
    await _drained(connections)
    return result


async def _paced(order: Order) -> Result:
    """Streams side by side; measured from when all of them run until one of them has ended, or the time is over."""
    tally = Tally(order.expect_status, order.needle)
    connections = await _connect(order, tally, order.connections)
    watch = _Watch(order.watch)
    tally.once = True
    for connection in connections:
        connection.ask()
    await _until(lambda: tally.begun + tally.failed >= order.connections)
    tally.reset(1)
    watch.begin()
    began = time.perf_counter()
    await asyncio.wait([tally.enough], timeout=order.seconds)
    spent, seconds, body_bytes = watch.spent(), time.perf_counter() - began, tally.body_bytes
    tally.reset(order.connections - tally.requests)
    await _drained(connections)
    result = _result(tally, seconds, spent)
    result.requests, result.body_bytes, result.latencies = order.connections - tally.failed, body_bytes, []
    return result


async def _open(order: Order) -> Result:
    """Memory before and with so many streams open; they are then hung up."""
    tally = Tally(order.expect_status, b"")
    watch = _Watch(order.watch)
    before = watch.memory()
    connections = await _connect(order, tally, order.connections)
    for connection in connections:
        connection.ask()
        await asyncio.sleep(order.stagger_s)
    await _until(lambda: tally.begun + tally.failed >= order.connections)
    await asyncio.sleep(order.seconds)
    result = _result(tally, order.seconds, {})
    result.requests = sum(connection.busy for connection in connections)
    result.memory_before, result.memory_open = before, watch.memory()
    for connection in connections:
        connection.close()
    await asyncio.sleep(_SETTLE_S)
    return result


def _result(tally: Tally, seconds: float, spent: dict[str, float]) -> Result:
    return Result(
        requests=tally.requests,
        failed=tally.failed,
        failure=tally.failure,
        seconds=seconds,
        body_bytes=tally.body_bytes,
        latencies=sorted(tally.latencies),
        cpu_s=spent,
    )


async def _until(reached: Any) -> None:
    deadline = time.monotonic() + READY_S
    while not reached() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)


async def _drained(connections: list[Connection]) -> None:
    """Let every answer come to its end, then hang up: what is cut off would be settled into the next measurement."""
    await _until(lambda: not any(connection.busy for connection in connections))
    for connection in connections:
        connection.close()
    await asyncio.sleep(0.02)


_KINDS = {"closed": _closed, "paced": _paced, "open": _open}


def main() -> None:
    """Serve orders until standard input closes."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin.buffer:
            order = msgspec.json.decode(line, type=Order)
            result = runner.run(_KINDS[order.kind](order))
            sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
