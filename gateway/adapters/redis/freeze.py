"""The store's own stop sign: after a mismatch no hold is placed by anybody, until somebody has looked.

It lies in the store, so that every worker on every machine sees it, and what runs is still settled. It is set by
reconcile and by the journal's drainer, and taken away by people alone (`farebox reconcile --accept`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.adapters.redis.books import Link
from gateway.core.errors import Unavailable

_KEY = "{leases}frozen"
# Between a mismatch and the last hold that another worker places.
REFRESH_S = 2.0
_REASON_CHARS_MAX = 1_000


class Freezer:
    """`reason` is what the last look said; None: not frozen. `tell` is called after each look."""

    def __init__(self, link: Link, *, tell: Callable[[str | None], None] | None = None) -> None:
        self._link = link
        self._tell = tell
        self.reason: str | None = None

    async def look(self) -> str | None:
        """Look once. Errors: Unavailable."""
        raw = await self._link.command("GET", _KEY, key=_KEY)
        self._set(None if raw is None else raw.decode(errors="replace"))
        return self.reason

    async def freeze(self, reason: str) -> None:
        """Stop all placing. The first reason stands. Errors: Unavailable."""
        await self._link.command("SET", _KEY, reason[:_REASON_CHARS_MAX], "NX", key=_KEY)
        await self.look()

    async def thaw(self) -> None:
        """Let holds be placed again. Errors: Unavailable."""
        await self._link.command("DEL", _KEY, key=_KEY)
        self._set(None)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with suppress(Unavailable):
                await self.look()
            await asyncio.sleep(REFRESH_S)

    def _set(self, reason: str | None) -> None:
        self.reason = reason
        if self._tell is not None:
            self._tell(reason)
