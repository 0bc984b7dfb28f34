"""Work that goes on beside the requests: each task is named, started again when it falls over, and ended with the
gateway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("farebox.background")

# A task that falls over at once is started again slowly; what it does can wait, and its log lines must not flood.
FIRST_PAUSE_S, GREATEST_PAUSE_S = 0.5, 30.0


class Background:
    """Runs coroutines until `close`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` now, and again whenever it ends with an error. One that returns is done."""
        self._tasks.append(asyncio.create_task(self._keep(name, work), name=name))

    async def _keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await work()
            except Exception:
                log.exception("%s fell over; again in %.1f s", name, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, GREATEST_PAUSE_S)
            else:
                return

    async def close(self) -> None:
        """Cancel everything and wait."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
