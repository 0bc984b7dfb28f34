"""One canonical line of JSON a request, written off the hot path.

A line is a dictionary put on a list; a task turns the list into bytes and writes them about four times a second, in a
thread, so that a slow disk or a full pipe stops nobody. What cannot be kept is counted and said, never waited for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime

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
        self._waiting: list[tuple[float, Finished]] = []
        self.dropped = 0
        self._writing = asyncio.Lock()

    def finished(self, request: Finished) -> None:
        """Put one line on the list."""
        if len(self._waiting) >= GREATEST_WAITING:
            self.dropped += 1
            return
        self._waiting.append((self._now_s(), request))

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

    def _write(self, waiting: list[tuple[float, Finished]], dropped: int) -> None:
        lines = [_encode(log_line(now_s, request)) + b"\n" for now_s, request in waiting]
        if dropped:
            lines.append(_encode({"event": "log_lines_dropped", "count": dropped}) + b"\n")
        left = memoryview(b"".join(lines))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError:  # the reader has gone, or the disk is full: the next batch says how much is missing
                self.dropped += len(waiting) + dropped
                return


def log_line(now_s: float, request: Finished) -> dict[str, object]:
    """The members of a line; those that say nothing are left out."""
    line: dict[str, object] = {
        "at": datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event": "request",
        "request_id": request.request_id,
        "method": request.method,
        "route": request.route,
        "status": request.status,
        "ms": round(request.duration_s * 1_000, 1),
    }
    if request.upstream_s:
        line["upstream_ms"] = round(request.upstream_s * 1_000, 1)
    if request.first_byte_s:
        line["first_byte_ms"] = round(request.first_byte_s * 1_000, 1)
    for name in ("upstream", "dialect", "operation", "model", "reason", "account", "policy"):
        value = getattr(request, name)
        if value:
            line[name] = value
    if request.hold:
        line |= {
            "hold": request.hold,
            "state": request.state,
            "unit": request.unit,
            "held": request.held,
            "amount": request.amount,
            "basis": request.basis,
            "usage": request.usage.as_members(),
        }
        if request.shortfall:
            line["shortfall"] = request.shortfall
        if request.cut:
            line["cut"] = request.cut
        if not request.acknowledged:
            line["acknowledged"] = False
    return line
