"""One canonical line of JSON a request, written off the hot path.

A line is made into bytes at once (2 us; a thread that did it later would fight for the interpreter with the requests)
and put on a list; a task writes the list about four times a second, in a thread, so that a slow disk or a full pipe
stops nobody. What cannot be kept is counted and said, never waited for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from gateway.core.finished import Finished

WRITE_INTERVAL_S = 0.25
# About 20 MB of waiting lines: a reader of the log that stalls longer loses lines, and the log says how many.
GREATEST_WAITING = 50_000
_encode = msgspec.json.Encoder().encode


class AccessLog:
    """Writes lines to a file descriptor (standard output by default)."""

    def __init__(self, now_s: Callable[[], float], *, descriptor: int = 1) -> None:
        self._now_s = now_s
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        self.dropped = 0
        self._writing = asyncio.Lock()

    def finished(self, request: Finished) -> None:
        """Put one line on the list."""
        if len(self._waiting) >= GREATEST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(_encode(log_line(self._now_s(), request)))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        async with self._writing:
            waiting, self._waiting = self._waiting, []
            dropped, self.dropped = self.dropped, 0
            if waiting or dropped:
                await asyncio.to_thread(self._write, waiting, dropped)

    def _write(self, waiting: list[bytes], dropped: int) -> None:
        if dropped:
            waiting.append(_encode({"event": "log_lines_dropped", "count": dropped}))
        left = memoryview(b"\n".join([*waiting, b""]))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError:  # the reader has gone, or the disk is full: the next batch says how much is missing
                self.dropped += len(waiting) + dropped
                return


class LogLine(msgspec.Struct, omit_defaults=True, gc=False):
    """The members of a line, in order; those that say nothing are left out."""

    at: str
    event: str | msgspec.UnsetType = msgspec.UNSET
    request_id: str = ""
    method: str = ""
    route: str = ""
    status: int = 0
    ms: float = -1.0
    upstream_ms: float = 0.0
    first_byte_ms: float = 0.0
    upstream: str = ""
    dialect: str = ""
    operation: str = ""
    model: str = ""
    reason: str = ""
    account: str = ""
    org: str = ""
    key_id: str = ""
    user: str = ""
    policy: str = ""
    hold: str = ""
    state: str = ""
    unit: str | None = None
    held: int | None = None
    amount: int | None = None
    basis: str = ""
    usage: msgspec.Raw | None = None
    shortfall: int = 0
    cut: str | None = None
    acknowledged: bool = True


def log_line(now_s: float, request: Finished) -> LogLine:
    """The line of a request."""
    line = LogLine(
        _instant(now_s), "request", request.request_id, request.method, request.route, request.status,
        round(request.duration_s * 1_000, 1), round(request.upstream_s * 1_000, 1),
        round(request.first_byte_s * 1_000, 1), request.upstream, request.dialect, request.operation, request.model,
        request.reason, request.account, request.org, request.key_id, request.user, request.policy,
    )  # fmt: skip
    if request.hold:
        line.hold, line.state, line.unit, line.basis = request.hold, request.state, request.unit, request.basis
        line.held, line.amount, line.shortfall = request.held, request.amount, request.shortfall
        line.cut, line.acknowledged = request.cut, request.acknowledged
        line.usage = msgspec.Raw(request.usage.as_json())
    return line


def _instant(now_s: float) -> str:
    whole = int(now_s)
    return f"{_second(whole)}.{int((now_s - whole) * 1_000):03d}Z"


@lru_cache(maxsize=8)
def _second(now_s: int) -> str:
    """RFC 3339 without the fraction: the same for all lines of a second."""
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
