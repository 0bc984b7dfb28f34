"""Watches the servers' memory, so that `place` can refuse at 85 % without asking each time.

Why: at 100 % the server refuses writes; holds that are open must still be able to end, and the journal to be
written. The watch only ever reads. While the store is away the last answer stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.adapters.redis.durability import Servers, is_memory_full, memory_share, parse_info
from gateway.core.errors import Unavailable

# From 85 % to full takes minutes at 5,000 requests a second and 400 bytes each, on any server with a gigabyte or more.
REFRESH_S = 5.0


class MemoryWatch:
    """`memory_full()` never waits. `tell` is called after each look, e.g. to set `RedisLedger.memory_is_short`."""

    def __init__(
        self, link: Servers, *, tell: Callable[[bool], None] | None = None, refresh_s: float = REFRESH_S
    ) -> None:
        self._link = link
        self._tell = tell
        self._refresh_s = refresh_s
        self.share = 0.0

    def memory_full(self) -> bool:
        """Whether a server had used 85 % at the last look."""
        return is_memory_full(self.share)

    async def look(self) -> None:
        """Look once. Errors: Unavailable."""
        replies = await self._link.each_server("INFO", "memory")
        self.share = max((memory_share(parse_info(reply)) for reply in replies.values()), default=0.0)
        if self._tell is not None:
            self._tell(self.memory_full())

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with suppress(Unavailable):  # the callers of the ledger find out for themselves
                await self.look()
            await asyncio.sleep(self._refresh_s)
