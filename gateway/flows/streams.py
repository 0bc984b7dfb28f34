"""Keeps time for the streams that run: one task for all of them, because two thousand timers are two thousand
wake-ups."""

from __future__ import annotations

import asyncio
from typing import Protocol

# How often each stream is looked at: well below the checkpoint interval and the hold's lifetime.
TICK_S = 0.5


class Timed(Protocol):
    """What runs and keeps time: a stream, a session."""

    def tick(self, now: float, *, read_timeout_s: float, stalled_reader_s: float) -> None: ...
    def stop(self, why: str) -> None: ...


class OpenStreams:
    """The running streams of this worker. `run` is its task."""

    def __init__(self, *, stalled_reader_s: float) -> None:
        self._streams: dict[Timed, float] = {}
        self._stalled_reader_s = stalled_reader_s
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Timed, read_timeout_s: float) -> None:
        """From now on the stream is ticked."""
        self._streams[stream] = read_timeout_s

    def discard(self, stream: Timed) -> None:
        """The stream is over."""
        self._streams.pop(stream, None)

    async def run(self) -> None:
        """Tick until cancelled. The streams are spread over the interval, so that their checkpoints do not come at
        once."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            for number, (stream, read_timeout_s) in enumerate(tuple(self._streams.items())):
                stream.tick(now, read_timeout_s=read_timeout_s, stalled_reader_s=self._stalled_reader_s)
                if number % 50 == 49:
                    await asyncio.sleep(0)

    def stop_all(self, why: str) -> None:
        """End every stream that still runs: the grace period is over."""
        for stream in tuple(self._streams):
            stream.stop(why)
